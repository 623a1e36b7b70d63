package config

import (
	"encoding/hex"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb/config/wording"
)

// What a check gets that does not say otherwise. Rise and fall are HAProxy's; at the start, though, a server is down
// until its first success, and that one is enough.
const (
	DefaultHealthInterval = 2 * time.Second
	DefaultHealthTimeout  = time.Second // or the interval, if that is shorter
	DefaultRise           = 2
	DefaultFall           = 3
)

const (
	maxInterval = 24 * time.Hour
	maxRise     = 1000
	maxStatuses = 64
	maxCommand  = 64
)

const noCommand = `exec check without "command"`

// Types of checks.
var (
	healthTypes = []string{"tcp", "http", "https", "udp", "icmp", "dns", "exec"}
	onAPort     = []string{"tcp", "http", "https", "udp", "dns"} // also those that can go to the VIP at a server's MAC
)

// fitting are the keys that only some types of checks have.
var fitting = map[string][]string{
	"port": {"tcp", "http", "https", "udp", "dns", "exec"}, "direct": onAPort,
	"path": {"http", "https"}, "host": {"http", "https"}, "status": {"http", "https"}, "body": {"http", "https"}, "insecure": {"https"},
	"send": {"tcp", "udp"}, "send_binary": {"tcp", "udp"}, "reply": {"tcp", "udp"},
	"query": {"dns"}, "record": {"dns"}, "command": {"exec"},
}

// healthPlace is where the parts of a service's health stand.
type healthPlace struct {
	at, directAt pos
	bad          bool // could not be read
	direct       bool // the file says whether
}

// decodeHealth reads a map or, for short, only the type.
func (d *decoder) decodeHealth(n *node, s *service) {
	before := len(d.errs)
	s.check.at = n.at
	h := policy.Health{Interval: DefaultHealthInterval, Timeout: DefaultHealthTimeout, Rise: DefaultRise, Fall: DefaultFall}
	switch n.kind {
	case mapping:
		d.decodeCheck(n, s, &h)
	case text:
		if h.Type, _ = d.choice(n, "health", healthTypes, nil); h.Type == "exec" {
			d.fail(n.at, noCommand, "a program decides", "write health: {type: exec, command: [/path/to/program, argument]}")
		}
	default:
		d.fail(n.at, fmt.Sprintf(`"health" is %s`, kindNames[n.kind]), "a type of check, or a map with it, is expected", "write health: "+wording.Enumerate(healthTypes, "or"))
	}
	s.Health = h
	s.check.bad = len(d.errs) > before || n.broken
}

func (d *decoder) decodeCheck(n *node, s *service, h *policy.Health) {
	h.Type = d.healthType(n)
	var keys []key
	add := func(name string, decode func(*node)) {
		keys = append(keys, key{name: name, decode: decode, unfit: unfitCheck(name, h.Type)})
	}
	into := func(v *string, read func(*node, string) string) func(name string) {
		return func(name string) { add(name, func(n *node) { *v = read(n, name) }) }
	}
	timeoutAt := n.at
	add("type", func(*node) {}) // before the others, which depend on it
	add("interval", func(n *node) {
		d.durationWithin(n, "interval", 10*time.Millisecond, maxInterval, &h.Interval)
	})
	add("timeout", func(n *node) {
		timeoutAt = n.at
		d.durationWithin(n, "timeout", time.Millisecond, maxInterval, &h.Timeout)
	})
	add("rise", func(n *node) { h.Rise, _ = d.number(n, "rise", 1, maxRise) })
	add("fall", func(n *node) { h.Fall, _ = d.number(n, "fall", 1, maxRise) })
	add("port", func(n *node) { port, _ := d.number(n, "port", 1, 65535); h.Port = uint16(port) })
	into(&h.Path, d.path)("path")
	into(&h.Host, d.hostName)("host")
	add("status", func(n *node) { h.Statuses = d.statuses(n) })
	into(&h.Body, d.regexp)("body")
	add("insecure", func(n *node) { h.Insecure, _ = d.boolean(n, "insecure") })
	into(&h.Send, d.payload)("send")
	into(&h.Send, d.binary)("send_binary")
	into(&h.Reply, d.regexp)("reply")
	into(&h.Query, d.hostName)("query")
	add("record", func(n *node) {
		upper := *n
		upper.text = strings.ToUpper(n.text)
		h.Record, _ = d.choice(&upper, "record", []string{"A", "AAAA", "NS", "SOA", "TXT"}, nil)
	})
	add("command", func(n *node) { h.Command = d.command(n) })
	add("direct", func(n *node) {
		s.check.direct, s.check.directAt = true, n.at
		h.Direct, _ = d.boolean(n, "direct")
	})
	if !d.decode(n, `"health"`, keys) {
		return
	}
	switch {
	case n.field("type") == nil:
		d.fail(n.at, `health without "type"`, "there are several ways to check a server", "write type: "+wording.Enumerate(healthTypes, "or"))
	case h.Type == "exec" && n.field("command") == nil:
		d.fail(n.at, noCommand, "a program decides", "write command: [/path/to/program, argument]")
	}
	if f := n.field("send_binary"); f != nil && n.field("send") != nil {
		d.fail(f.at, `"send_binary" beside "send"`, "both say what is sent", "remove one of them")
	}
	if n.field("timeout") == nil {
		h.Timeout = min(h.Timeout, h.Interval)
	} else if h.Timeout > h.Interval {
		d.fail(timeoutAt, fmt.Sprintf("timeout %s is longer than the interval %s", durationText(h.Timeout), durationText(h.Interval)),
			"a check would begin before the last one has ended", fmt.Sprintf("write a timeout up to %s or an interval from %s on", durationText(h.Interval), durationText(h.Timeout)))
	}
}

// healthType is "" if the file has none that is known.
func (d *decoder) healthType(n *node) string {
	f := n.field("type")
	if f == nil || f.value == nil || f.value.kind == null {
		return ""
	}
	s, _ := d.choice(f.value, "type", healthTypes, nil)
	return s
}

// unfitCheck says why a type of check does not have a key; nil if it does, or is not known.
func unfitCheck(key, typ string) *unfit {
	types, some := fitting[key]
	if !some || typ == "" || slices.Contains(types, typ) {
		return nil
	}
	return &unfit{fmt.Sprintf("%q of a check with type %s", key, typ), "it belongs to " + wording.Enumerate(types, "and"), "remove the key or write type: " + wording.Enumerate(types, "or")}
}

// path is what an HTTP server is asked for.
func (d *decoder) path(n *node, name string) string {
	s, ok := d.str(n, name)
	switch i := strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }); {
	case !ok:
		return ""
	case !strings.HasPrefix(s, "/"):
		d.fail(n.at, fmt.Sprintf("%s %s does not begin with /", name, wording.Quote(s)), "a request has the path alone, and its server's name in host", "write it like /healthz")
		return ""
	case i >= 0:
		d.fail(n.at, fmt.Sprintf("%s %s has %q in it", name, wording.Quote(s), s[i]), "a request line is one of printable ASCII without spaces", fmt.Sprintf("write %%%02X", s[i]))
		return ""
	}
	return s
}

// hostName is a name that is handed on as it is; it is not resolved.
func (d *decoder) hostName(n *node, name string) string {
	const longest = 255
	s, ok := d.str(n, name)
	switch {
	case !ok:
		return ""
	case len(s) > longest || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`/\"@?#`, r) }):
		d.fail(n.at, fmt.Sprintf("%s %s is no name", name, wording.Quote(s)), "names are letters, digits, - and . in ASCII", "write it like www.example.com")
		return ""
	}
	return s
}

// regexp reads a regular expression.
func (d *decoder) regexp(n *node, name string) string {
	s, ok := d.str(n, name)
	if !ok {
		return ""
	}
	if _, err := regexp.Compile(s); err != nil {
		why := strings.TrimPrefix(err.Error(), "error parsing regexp: ")
		d.fail(n.at, fmt.Sprintf("%s %s is no regular expression", name, wording.Quote(s)), why, `write one in the syntax of RE2, with \ before a character that is meant as it is`)
		return ""
	}
	return s
}

// payload reads text that may have control characters.
func (d *decoder) payload(n *node, name string) string {
	if n.kind == text && n.text != "" {
		return n.text
	}
	s, _ := d.str(n, name)
	return s
}

// binary reads bytes in hexadecimal.
func (d *decoder) binary(n *node, name string) string {
	const instead = `write it like "0d0a"`
	if n.kind != text && n.kind != integer {
		d.fail(n.at, fmt.Sprintf("%q is %s", name, kindNames[n.kind]), "bytes in hexadecimal are expected", instead)
		return ""
	}
	b, err := hex.DecodeString(n.text)
	if err != nil || len(b) == 0 {
		d.fail(n.at, fmt.Sprintf("%s %s is not hexadecimal", name, wording.Quote(n.text)), "each byte is two digits", instead)
	}
	return string(b)
}

// statuses reads a status, a range of them, or a list of both.
func (d *decoder) statuses(n *node) (list []policy.StatusRange) {
	const least, most, instead = 100, 599, "write it like 200, 200-299 or [200-299, 301]"
	if n.empty() {
		d.fail(n.at, `"status" has no items`, "no answer would be healthy", instead)
	}
	d.oneOrMore(n, "status", maxStatuses, func(n *node) {
		if n.kind != text {
			if v, ok := d.number(n, "status", least, most); ok {
				list = append(list, policy.StatusRange{First: v, Last: v})
			}
			return
		}
		from, to, _ := strings.Cut(n.text, "-")
		first, err1 := strconv.Atoi(from)
		last, err2 := strconv.Atoi(to)
		switch {
		case err1 != nil || err2 != nil:
			d.fail(n.at, "status "+wording.Quote(n.text)+" is no range", "a range is two numbers with - between them", instead)
		case first < least || last > most:
			d.fail(n.at, "status "+wording.Quote(n.text)+" is out of range", fmt.Sprintf("%d to %d are allowed", least, most), instead)
		case first > last:
			d.fail(n.at, "status "+wording.Quote(n.text)+" runs backwards", "the lower number comes first", fmt.Sprintf("write %d-%d", last, first))
		default:
			list = append(list, policy.StatusRange{First: first, Last: last})
		}
	})
	return list
}

// command reads a program with its arguments. Whether it exists the machine knows.
func (d *decoder) command(n *node) (words []string) {
	if n.empty() {
		d.fail(n.at, `"command" has no items`, "a program decides", "write command: [/path/to/program, argument]")
	}
	d.oneOrMore(n, "command", maxCommand, func(item *node) {
		s, ok := d.str(item, "command")
		switch {
		case !ok:
		case len(words) == 0 && !path.IsAbs(s):
			d.fail(item.at, fmt.Sprintf("command %s is no absolute path", wording.Quote(s)), "the daemon has a PATH and a directory of its own", "write it like /usr/local/bin/check")
		case n.kind != list && strings.Contains(s, " "):
			d.fail(item.at, fmt.Sprintf("command %s has a space in it", wording.Quote(s)), "no shell takes it apart", fmt.Sprintf("write [%s]", strings.Join(strings.Fields(s), ", ")))
		}
		words = append(words, s)
	})
	return words
}

// decodeOnFailure says what becomes of a server that is down.
func (d *decoder) decodeOnFailure(n *node, s *service) {
	name, _ := d.choice(n, "on_failure", []string{"quiesce", "remove"}, nil)
	s.Health.Remove = name == "remove"
	d.needsHealth(n.at, s, "on_failure", "servers that nobody checks do not fail")
}

// decodeSlowStart says how long a server that has come up gets less.
func (d *decoder) decodeSlowStart(n *node, s *service) {
	d.duration(n, "slow_start", &s.SlowStart)
	d.needsHealth(n.at, s, "slow_start", "servers that nobody checks are up from the beginning")
}

func (d *decoder) needsHealth(at pos, s *service, key, why string) {
	if !s.Health.Enabled() && !s.check.bad {
		d.fail(at, fmt.Sprintf("%q in a service without health", key), why, "write health: tcp, or remove the key")
	}
}

// checkHealth finds servers that the check does not fit.
func (d *decoder) checkHealth(s *service) {
	if !s.Health.Enabled() || s.check.bad {
		return
	}
	translated := "" // whose packets take another way
	for i, server := range s.all() {
		if server.mode != policy.DR && i < len(s.Servers) {
			translated = server.Name
		}
		if a := server.Address; a.IsValid() && a.Port() == 0 && s.Health.Port == 0 && slices.Contains(onAPort, s.Health.Type) && s.listens() && s.Listen[0].All() {
			d.fail(s.check.at, fmt.Sprintf("health with type %s does not say which port", s.Health.Type),
				fmt.Sprintf("the server %s in line %d has none of its own, and the service has all", a.Addr(), server.at.address.line), "write health: {type: "+s.Health.Type+", port: 80} if port 80 is meant")
			return
		}
	}
	if s.Health.Direct && translated != "" && !s.badMode && !s.badServers {
		d.fail(s.check.directAt, fmt.Sprintf(`"direct" with the server %q, whose mode is not dr`, translated), "it is the way of that mode: to the VIP at the server's MAC address", "remove the key or write mode: dr")
	}
}

// finishHealth has checks go the way that direct routing takes if all servers can be reached by it: those to a
// server's own address do not notice that it lacks the VIP.
func (d *decoder) finishHealth(s *service, routes routeTable) {
	if !slices.Contains(onAPort, s.Health.Type) || s.check.direct && !s.Health.Direct {
		return
	}
	able := len(s.Servers) > 0
	for _, server := range s.all()[:len(s.Servers)] {
		_, segment, _ := routes.lookup(server.Address.Addr())
		if server.mode == policy.DR && segment != elsewhere {
			continue
		}
		if able = false; s.check.direct && server.mode == policy.DR && server.Address.IsValid() {
			d.fail(s.check.directAt, fmt.Sprintf("direct: true with the server %s, which is on no segment of a tap or packet port", server.Address.Addr()),
				"only there tunlb has a MAC address to check from", "remove the key, or write an address of the server's network in the addresses of such a port")
			return
		}
	}
	if !s.check.direct {
		s.Health.Direct = able
	}
}
