package keepalived

import (
	"encoding/hex"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/tunlb/tunlb/policy"
)

// check is what services and servers say about their checks in general.
type check struct {
	interval, timeout time.Duration
	retry             int
	host              string
	port              int
}

var defaultCheck = check{interval: time.Minute, timeout: 5 * time.Second, retry: 1}

// timing reads a keyword that all kinds of checks have, and services and servers on behalf of theirs.
func (im *importer) timing(c *check, n *node) bool {
	switch n.words[0] {
	case "delay_loop":
		im.seconds(n, 10*time.Millisecond, &c.interval)
	case "connect_timeout":
		im.seconds(n, time.Millisecond, &c.timeout)
	case "retry", "nb_get_retry":
		im.number(n, 0, 999, &c.retry)
	case "virtualhost":
		c.host = n.value(0)
	case "connect_port":
		im.number(n, 1, 65535, &c.port)
	default:
		return false
	}
	return true
}

// health reads the servers' checks. tunlb checks all servers of a service in one way, that of the first here.
func (im *importer) health(v *virtual) {
	first := ""
	unchecked := []*node(nil)
	for i, n := range v.checks {
		h := im.serverHealth(v, i)
		switch {
		case !h.Enabled():
			unchecked = append(unchecked, n)
		case !v.Health.Enabled():
			v.Health, first = h, n.text()
		case !reflect.DeepEqual(h, v.Health):
			im.note(n, "its own check: all servers of a service are checked alike, as "+first)
			im.others = append(im.others, other(n))
		}
	}
	if v.Health.Enabled() {
		if !v.alpha && !im.told {
			im.told = true // once is enough
			im.note(v.n, "no alpha: servers that are checked are down until their first success")
		}
		for _, n := range unchecked {
			im.note(n, "it has no check that tunlb has: all servers of a service are checked alike, as "+first)
			im.others = append(im.others, other(n))
		}
	}
}

// other names a server that gets another one's check.
func other(n *node) string {
	return fmt.Sprintf("%s (%s)", strings.Join(n.words[1:], " "), n.place)
}

// warning counts the servers that get another one's check: a wrong one takes a sound server out, or lets a broken
// one in.
func (im *importer) warning() string {
	if len(im.others) == 0 {
		return ""
	}
	servers := "1 server is"
	if n := len(im.others); n > 1 {
		servers = fmt.Sprintf("%d servers are", n)
	}
	return servers + " not checked as in keepalived, but by the first check of the service: " + strings.Join(im.others, ", ")
}

// serverHealth reads the checks of one server and takes the first that tunlb has.
func (im *importer) serverHealth(v *virtual, i int) (h policy.Health) {
	c := v.check
	var checks []*node
	for _, n := range v.checks[i].block {
		switch {
		case strings.HasSuffix(n.words[0], "_CHECK") || strings.HasSuffix(n.words[0], "_GET"):
			checks = append(checks, n)
		case !im.timing(&c, n):
			im.without(n)
		}
	}
	for _, n := range checks {
		if h.Enabled() {
			im.note(n, "a server has one check")
			continue
		}
		h = im.checker(c, n)
		if port := v.Servers[i].Address.Port(); h.Port == port {
			h.Port = 0
		}
	}
	return h
}

// checker reads one check; what is not enabled has no counterpart.
func (im *importer) checker(c check, n *node) policy.Health {
	types := map[string]string{
		"TCP_CHECK": "tcp", "HTTP_GET": "http", "SSL_GET": "https", "MISC_CHECK": "exec", "DNS_CHECK": "dns", "UDP_CHECK": "udp", "PING_CHECK": "icmp",
	}
	h := policy.Health{Type: types[n.words[0]], Rise: 1}
	if h.Type == "" {
		im.note(n, "there is no such check: an exec check can run a program that does it")
		return h
	}
	// What a check says itself comes before what it depends on: a time limit of a program is by default the interval.
	var own []*node
	for _, p := range n.block {
		if !im.timing(&c, p) {
			own = append(own, p)
		}
	}
	h.Interval, h.Timeout, h.Fall, h.Port = c.interval, c.timeout, c.retry+1, uint16(c.port)
	switch h.Type {
	case "http", "https":
		h.Host, h.Insecure = c.host, h.Type == "https" // keepalived looks at no certificate
		h.Statuses = []policy.StatusRange{{First: 200, Last: 299}}
	case "exec":
		h.Timeout = h.Interval
	case "dns":
		h.Record = "SOA"
	case "icmp":
		h.Port = 0
	}
	for _, p := range own {
		if !im.checkProperty(&h, p) {
			im.without(p)
		}
	}
	if h.Type == "udp" && h.Send != "" && !has(n, "require_reply") {
		im.note(n, "payload without require_reply: what is sent is to be answered, so nothing is sent")
		h.Send = ""
	}
	if h.Type == "exec" && len(h.Command) == 0 {
		im.note(n, "it has no misc_path")
		return policy.Health{}
	}
	if h.Timeout > h.Interval {
		im.note(n, fmt.Sprintf("connect_timeout over delay_loop: checks do not overlap, so it is %v now", h.Interval))
		h.Timeout = h.Interval
	}
	return h
}

func has(n *node, keyword string) bool {
	for _, p := range n.block {
		if p.words[0] == keyword {
			return true
		}
	}
	return false
}

// checkProperty reads a keyword of the one kind of check. False: it has no counterpart.
func (im *importer) checkProperty(h *policy.Health, n *node) bool {
	switch h.Type + " " + n.words[0] {
	case "http url", "https url":
		im.url(h, n)
	case "exec misc_path":
		h.Command = shellWords(n.value(0))
	case "exec misc_timeout":
		im.seconds(n, time.Millisecond, &h.Timeout)
	case "dns name":
		h.Query = strings.TrimSuffix(n.value(0), ".")
	case "dns type":
		switch record := strings.ToUpper(n.value(0)); record {
		case "A", "AAAA", "NS", "SOA", "TXT":
			h.Record = record
		default:
			im.note(n, "there is no such type of records, it is SOA now")
		}
	case "udp payload":
		send, err := parseHex(n.words[1:])
		if err != nil {
			im.note(n, "it is not hexadecimal")
		}
		h.Send = string(send)
	case "udp require_reply":
		reply, err := parseHex(n.words[1:])
		if err != nil || strings.ContainsFunc(string(reply), func(r rune) bool { return r < ' ' || r > '~' }) {
			return false
		}
		if len(reply) > 0 {
			h.Reply = "^" + regexp.QuoteMeta(string(reply))
		}
	default:
		return false
	}
	return true
}

// parseHex reads bytes, which may be apart or not.
func parseHex(words []string) ([]byte, error) {
	return hex.DecodeString(strings.Join(strings.Fields(strings.Join(words, " ")), ""))
}

// url reads what is asked for; tunlb asks for one.
func (im *importer) url(h *policy.Health, n *node) {
	if h.Path != "" {
		im.note(n, "a check asks for one path")
		return
	}
	h.Path = "/"
	for _, p := range n.block {
		switch p.words[0] {
		case "path":
			h.Path = p.value(0)
		case "virtualhost":
			h.Host = p.value(0)
		case "status_code":
			h.Statuses = nil
			for _, word := range p.words[1:] {
				first, last, isRange := strings.Cut(word, "-")
				if !isRange {
					last = first
				}
				from, err1 := strconv.Atoi(first)
				to, err2 := strconv.Atoi(last)
				if err1 != nil || err2 != nil || from < 100 || to > 599 || to < from {
					im.note(p, fmt.Sprintf("%q is no status", word))
					continue
				}
				h.Statuses = append(h.Statuses, policy.StatusRange{First: from, Last: to})
			}
		case "regex":
			if _, err := regexp.Compile(p.value(0)); err != nil {
				im.note(p, "body is RE2, which has less than PCRE: "+err.Error())
				continue
			}
			h.Body = p.value(0)
		default:
			im.without(p)
		}
	}
}

// shellWords takes a command apart at space that is not in quotes.
func shellWords(s string) (words []string) {
	var word strings.Builder
	quote, begun := rune(0), false
	end := func() {
		if begun {
			words = append(words, word.String())
		}
		word.Reset()
		begun = false
	}
	for _, r := range s {
		switch {
		case quote == 0 && strings.ContainsRune(" \t\n", r):
			end()
		case quote == 0 && (r == '\'' || r == '"'):
			quote, begun = r, true
		case r == quote:
			quote = 0
		default:
			word.WriteRune(r)
			begun = true
		}
	}
	end()
	return words
}
