package config

import (
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tunlb/tunlb/policy"
)

// formatService is one item of services, normalized, without what is the default.
func formatService(s *policy.Spec) string {
	var b strings.Builder
	prefix := "  - "
	line := func(key, value string) {
		fmt.Fprintf(&b, "%s%s: %s\n", prefix, key, value)
		prefix = "    "
	}
	line("name", scalar(s.Name))
	places := make([]string, len(s.Listen))
	for i, l := range s.Listen {
		places[i] = scalar(l.String())
	}
	line("listen", one(places))
	if s.Mode != policy.NAT {
		line("mode", s.Mode.String())
	}
	line("scheduler", s.Scheduler)
	if names := flagNames(s.Flags); len(names) > 0 {
		line("flags", flowList(names))
	}
	switch p := s.Persistence; {
	case p.Timeout == 0:
	case p.HostBits == 0:
		line("persistence", durationText(p.Timeout))
	default:
		line("persistence", fmt.Sprintf("{timeout: %s, mask: %d}", durationText(p.Timeout), s.Listen[0].Addr.BitLen()-p.HostBits))
	}
	if s.OnePacket {
		line("one_packet", "true")
	}
	if s.Fastpath {
		line("fastpath", "kernel")
	}
	if fields := formatTimeouts(s.Timeouts); len(fields) > 0 {
		line("timeouts", flowMap(fields))
	}
	if s.Keep {
		line("on_delete", "keep")
	}
	if s.Health.Enabled() {
		line("health", flowMap(formatHealth(&s.Health, servesDirect(s))))
	}
	if s.Health.Remove {
		line("on_failure", "remove")
	}
	if s.SlowStart != 0 {
		line("slow_start", durationText(s.SlowStart))
	}
	if s.Quorum != 0 {
		line("quorum", strconv.Itoa(s.Quorum))
	}
	if s.Sorry != nil {
		line("sorry_server", flowMap(formatServer(s, s.Sorry)))
	}
	if len(s.Servers) == 0 {
		line("servers", "[]")
		return b.String()
	}
	b.WriteString(prefix + "servers:\n")
	for i := range s.Servers {
		fmt.Fprintf(&b, "      - %s\n", flowMap(formatServer(s, &s.Servers[i])))
	}
	return b.String()
}

// pair is a key with its value as it is written.
type pair struct{ key, value string }

func formatServer(s *policy.Spec, server *policy.ServerSpec) []pair {
	address := server.Address.String()
	if server.Address.Port() == 0 {
		address = server.Address.Addr().String()
	}
	fields := []pair{{"name", scalar(server.Name)}, {"address", scalar(address)}}
	add := func(really bool, key, value string) {
		if really {
			fields = append(fields, pair{key, value})
		}
	}
	add(server.Mode != s.Mode, "mode", server.Mode.String())
	add(server.Weight != 1, "weight", strconv.Itoa(server.Weight))
	add(server.MAC != [6]byte{}, "mac", macText(server.MAC))
	add(server.Upper != 0, "upper", strconv.Itoa(server.Upper))
	add(server.Lower != 0, "lower", strconv.Itoa(server.Lower))
	add(server.Keep && !s.Keep, "on_delete", "keep")
	return fields
}

func formatTimeouts(t policy.Timeouts) (fields []pair) {
	for _, f := range timeoutFields(&t) {
		if *f.value != 0 {
			fields = append(fields, pair{f.name, durationText(*f.value)})
		}
	}
	return fields
}

// formatHealth says always what has a default that is easily forgotten: the times and numbers.
func formatHealth(h *policy.Health, direct bool) []pair {
	fields := []pair{
		{"type", h.Type}, {"interval", durationText(h.Interval)}, {"timeout", durationText(h.Timeout)},
		{"rise", strconv.Itoa(h.Rise)}, {"fall", strconv.Itoa(h.Fall)},
	}
	add := func(really bool, key, value string) {
		if really {
			fields = append(fields, pair{key, value})
		}
	}
	add(h.Port != 0, "port", strconv.Itoa(int(h.Port)))
	add(h.Path != "", "path", scalar(h.Path))
	add(h.Host != "", "host", scalar(h.Host))
	add(len(h.Statuses) > 0, "status", formatStatuses(h.Statuses))
	add(h.Body != "", "body", scalar(h.Body))
	add(h.Insecure, "insecure", "true")
	if utf8.ValidString(h.Send) {
		add(h.Send != "", "send", scalar(h.Send))
	} else {
		add(true, "send_binary", strconv.Quote(hex.EncodeToString([]byte(h.Send))))
	}
	add(h.Reply != "", "reply", scalar(h.Reply))
	add(h.Query != "", "query", scalar(h.Query))
	add(h.Record != "", "record", h.Record)
	if len(h.Command) > 0 {
		words := make([]string, len(h.Command))
		for i, w := range h.Command {
			words[i] = scalar(w)
		}
		add(true, "command", flowList(words))
	}
	add(direct, "direct", strconv.FormatBool(h.Direct)) // its default depends on the ports
	return fields
}

func formatStatuses(ranges []policy.StatusRange) string {
	items := make([]string, len(ranges))
	for i, r := range ranges {
		items[i] = strconv.Itoa(r.First)
		if r.Last != r.First {
			items[i] += "-" + strconv.Itoa(r.Last)
		}
	}
	return one(items)
}

// servesDirect says whether checks of the service may take the way of mode dr.
func servesDirect(s *policy.Spec) bool {
	return slices.Contains(onAPort, s.Health.Type) && len(s.Servers) > 0 &&
		!slices.ContainsFunc(s.Servers, func(server policy.ServerSpec) bool { return server.Mode != policy.DR })
}

func flagNames(f policy.Flags) (names []string) {
	for _, known := range flags {
		if f&known.flag != 0 {
			names = append(names, known.name)
		}
	}
	return names
}

func flowMap(fields []pair) string {
	items := make([]string, len(fields))
	for i, f := range fields {
		items[i] = f.key + ": " + f.value
	}
	return "{" + strings.Join(items, ", ") + "}"
}

func flowList(items []string) string { return "[" + strings.Join(items, ", ") + "]" }

// one leaves the brackets away from a single item.
func one(items []string) string {
	if len(items) == 1 {
		return items[0]
	}
	return flowList(items)
}

// Text that YAML takes for nothing but text, wherever it stands. A colon is plain before a digit in IPv4's IP:port,
// also in a list within braces.
var (
	plainText = regexp.MustCompile(`^(?:[A-Za-z_/][A-Za-z0-9_./-]*|(?:\d+\.){3}\d+(?::\d+(?:-\d+)?)?(?:/[a-z]+)?)$`)
	notText   = regexp.MustCompile(`(?i)^(?:null|true|false|yes|no|on|off|y|n)$`)
)

// scalar is a string in YAML.
func scalar(s string) string {
	if plainText.MatchString(s) && !notText.MatchString(s) {
		return s
	}
	return strconv.Quote(s) // whose escapes are YAML's, too, in text that is UTF-8
}

// durationText is a time as people write it: 480h and not 480h0m0s.
func durationText(v time.Duration) string {
	s := v.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
