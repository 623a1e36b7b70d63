package keepalived

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tunlb/tunlb/policy"
)

// importer turns nodes into services.
type importer struct {
	specs    []policy.Spec
	timeouts policy.Timeouts
	notes    []string
	groups   map[string]*node
	told     bool     // that servers begin as down
	others   []string // servers that get another one's check
}

func (im *importer) note(n *node, why string) {
	im.notes = append(im.notes, fmt.Sprintf("%s: %s: %s", n.place, n.text(), why))
}

// without notes a keyword that has no counterpart.
func (im *importer) without(n *node) {
	if !quiet[n.words[0]] && !strings.HasPrefix(n.words[0], "@") { // of which there is a note already
		im.note(n, reason(n.words[0]))
	}
}

func (im *importer) top(root *node) {
	for _, n := range root.block { // they may stand behind those who use them
		if n.words[0] == "virtual_server_group" {
			im.groups[n.value(0)] = n
		}
	}
	for _, n := range root.block {
		switch keyword := n.words[0]; {
		case keyword == "virtual_server":
			im.virtualServer(n)
		case keyword == "virtual_server_group", strings.HasPrefix(keyword, "@"):
		case keyword == "global_defs":
			im.global(n)
		case strings.HasPrefix(keyword, "vrrp"):
			im.note(n, "tunlb speaks no VRRP: keepalived can go on doing so beside it")
		case strings.HasPrefix(keyword, "static_"):
			im.note(n, "addresses, routes and rules are the system's")
		default:
			im.without(n)
		}
	}
}

// global reads what is about balancing among that which is about keepalived.
func (im *importer) global(n *node) {
	rest := len(n.block) == 0
	for _, p := range n.block {
		if p.words[0] == "lvs_timeouts" {
			im.lvsTimeouts(p)
		} else {
			rest = true
		}
	}
	if rest {
		im.note(n, "it is about keepalived itself")
	}
}

// lvsTimeouts reads pairs of a name and seconds, in any order.
func (im *importer) lvsTimeouts(n *node) {
	to := map[string]*time.Duration{"tcp": &im.timeouts.Established, "tcpfin": &im.timeouts.FinWait, "udp": &im.timeouts.UDP}
	if len(n.words) == 1 {
		im.note(n, "it has no timeout")
	}
	for i := 1; i < len(n.words); i += 2 {
		const longest = 480 * 60 * 60 // of the file's timeouts
		v, err := strconv.Atoi(n.value(i))
		switch timeout := to[n.words[i]]; {
		case timeout == nil:
			im.note(n, fmt.Sprintf("%q is no timeout: there are tcp, tcpfin and udp", n.words[i]))
			return
		case err != nil || v < 1 || v > longest:
			im.note(n, fmt.Sprintf("%q is no number of seconds from 1 to %d", n.value(i), longest))
		default:
			*timeout = time.Duration(v) * time.Second
		}
	}
}

// virtual is a virtual_server as it is being read.
type virtual struct {
	policy.Spec
	n        *node
	proto    uint8
	places   []policy.Listen // of either family, without a protocol yet
	flags    []string
	weight   int // of servers that do not say their own
	check    check
	checks   []*node // which server has which, parallel to Servers
	inhibit  bool
	inhibits int // servers that say so themselves
	mask     *node
	alpha    bool
}

func (im *importer) virtualServer(n *node) {
	v := &virtual{n: n, proto: policy.TCP, weight: 1, check: defaultCheck}
	v.Mode = policy.NAT
	if !im.places(v) {
		return
	}
	// Servers refer to what the service says behind them, too.
	var servers []*node
	for _, n := range n.block {
		if n.words[0] == "real_server" || n.words[0] == "sorry_server" {
			servers = append(servers, n)
		} else if !im.property(v, n) {
			return
		}
	}
	for _, n := range servers {
		im.server(v, n)
	}
	im.health(v)
	im.finish(v)
}

// places reads where it listens: an address and a port, or a group of those.
func (im *importer) places(v *virtual) bool {
	switch n := v.n; n.value(0) {
	case "fwmark":
		im.note(n, "services by firewall mark are not served yet: listen takes several VIPs and ranges of ports")
	case "group":
		group := im.groups[n.value(1)]
		if group == nil {
			im.note(n, "there is no such virtual_server_group")
			return false
		}
		v.Name = n.value(1)
		for _, n := range group.block {
			places, err := parsePlaces(n.words)
			if err != nil {
				im.note(n, err.Error())
			}
			v.places = append(v.places, places...)
		}
		if len(v.places) == 0 {
			im.note(n, "its group has no address")
		}
	default:
		places, err := parsePlaces(n.words[1:])
		if err != nil {
			im.note(n, err.Error())
		}
		v.places = places
	}
	return len(v.places) > 0
}

// maxPlaces is how many addresses a range may have.
const maxPlaces = 256

// parsePlaces reads an address, the last part of which may be a range, and a port, which may be one, too.
func parsePlaces(words []string) (places []policy.Listen, err error) {
	if len(words) == 0 {
		return nil, errors.New("it has no address")
	}
	if words[0] == "fwmark" {
		return nil, errors.New("services by firewall mark are not served yet")
	}
	at, last, isRange := strings.Cut(words[0], "-")
	addr, err := netip.ParseAddr(at)
	addr = addr.Unmap()
	if err != nil || addr.Zone() != "" {
		return nil, fmt.Errorf("%q is no address", at)
	}
	end := addr
	if isRange {
		sep, base := ".", 10
		if end.Is6() {
			sep, base = ":", 16
		}
		if _, err := strconv.ParseUint(last, base, 16); err != nil {
			return nil, fmt.Errorf("%q is no range of addresses", words[0])
		}
		if end, err = netip.ParseAddr(at[:strings.LastIndex(at, sep)+1] + last); err != nil || end.Less(addr) {
			return nil, fmt.Errorf("%q is no range of addresses", words[0])
		}
	}
	var l policy.Listen
	if len(words) > 1 {
		first, last, isRange := strings.Cut(words[1], "-")
		if !isRange {
			last = first
		}
		from, err1 := strconv.ParseUint(first, 10, 16)
		to, err2 := strconv.ParseUint(last, 10, 16)
		if err1 != nil || err2 != nil || to < from || from == 0 && to != 0 {
			return nil, fmt.Errorf("%q is no port", words[1])
		}
		l.First, l.Last = uint16(from), uint16(to)
	}
	for ; ; addr = addr.Next() {
		l.Addr = addr
		if places = append(places, l); addr == end {
			return places, nil
		}
		if len(places) == maxPlaces {
			return nil, fmt.Errorf("more than %d addresses", maxPlaces)
		}
	}
}

// property reads one that is the service's. False: the service cannot be had.
func (im *importer) property(v *virtual, n *node) bool {
	arg := n.value(0)
	switch keyword := n.words[0]; keyword {
	case "lb_algo", "lvs_sched":
		if v.Scheduler = arg; !slices.Contains(policy.Schedulers(), arg) {
			v.Scheduler = ""
			im.note(n, "there is no such scheduler, it is wlc now")
		}
	case "lb_kind", "lvs_method":
		mode, ok := parseMode(arg)
		if !ok {
			im.note(v.n, "tunnels are not served yet: "+n.text())
			return false
		}
		v.Mode = mode
	case "protocol":
		proto, ok := policy.ParseProto(strings.ToLower(arg))
		if !ok || proto == policy.SCTP {
			im.note(v.n, "only TCP and UDP are served: "+n.text())
			return false
		}
		v.proto = proto
	case "persistence_timeout":
		v.Persistence.Timeout = 6 * time.Minute
		if arg != "" {
			im.seconds(n, time.Second, &v.Persistence.Timeout)
		}
	case "persistence_granularity":
		v.mask = n
	case "quorum":
		im.number(n, 1, 1<<31-1, &v.Quorum)
	case "alpha":
		v.alpha = true
	case "ops":
		v.OnePacket = true
	case "weight":
		im.number(n, 0, 65535, &v.weight)
	case "inhibit_on_failure":
		v.inhibit = true
	case "sh-port", "sh-fallback", "mh-port", "mh-fallback", "flag-1", "flag-2":
		v.flags = append(v.flags, keyword)
	default:
		if !im.timing(&v.check, n) {
			im.without(n)
		}
	}
	return true
}

func parseMode(s string) (policy.Mode, bool) {
	mode, ok := map[string]policy.Mode{"NAT": policy.NAT, "DR": policy.DR}[strings.ToUpper(s)]
	return mode, ok
}

// number reads a value within bounds; a wrong one stays what it was.
func (im *importer) number(n *node, least, most int, to *int) {
	v, err := strconv.Atoi(n.value(0))
	if err != nil || v < least || v > most {
		im.note(n, fmt.Sprintf("%q is no number from %d to %d", n.value(0), least, most))
		return
	}
	*to = v
}

// seconds reads a time, which may have a fraction.
func (im *importer) seconds(n *node, least time.Duration, to *time.Duration) {
	const most = 31 * 24 * time.Hour
	v, err := strconv.ParseFloat(n.value(0), 64)
	if err != nil || !(v >= least.Seconds() && v <= most.Seconds()) {
		im.note(n, fmt.Sprintf("%q is no number of seconds from %v on", n.value(0), least.Seconds()))
		return
	}
	*to = time.Duration(v * float64(time.Second)).Round(time.Millisecond)
}

// server reads a real server or the one of last resort.
func (im *importer) server(v *virtual, n *node) {
	words := slices.Clone(n.words[1:])
	if len(words) == 0 {
		im.note(n, "it has no address")
		return
	}
	places, err := parsePlaces(words)
	if err != nil || len(places) != 1 || places[0].First != places[0].Last {
		im.note(n, fmt.Sprintf("%q is no address with a port", strings.Join(words, " ")))
		return
	}
	server := policy.ServerSpec{Address: netip.AddrPortFrom(places[0].Addr, places[0].First), Weight: v.weight}
	if n.words[0] == "sorry_server" {
		if v.Sorry != nil {
			im.note(n, "there is one already")
			return
		}
		server.Weight = 1
		v.Sorry = &server
		return
	}
	var checks []*node
	for _, p := range n.block {
		switch p.words[0] {
		case "weight":
			im.number(p, 0, 65535, &server.Weight)
		case "uthreshold":
			im.number(p, 0, 1<<31-1, &server.Upper)
		case "lthreshold":
			im.number(p, 0, 1<<31-1, &server.Lower)
		case "inhibit_on_failure":
			v.inhibits++
		case "lb_kind", "lvs_method":
			mode, ok := parseMode(p.value(0))
			if !ok {
				im.note(n, "tunnels are not served yet: "+p.text())
				return
			}
			server.Mode = mode
		default:
			checks = append(checks, p)
		}
	}
	v.Servers = append(v.Servers, server)
	v.checks = append(v.checks, &node{place: n.place, words: n.words, block: checks})
}

// finish puts together what depends on several keywords, as one service for each family.
func (im *importer) finish(v *virtual) {
	for _, flag := range v.flags {
		of, name, _ := strings.Cut(flag, "-")
		if of != "flag" && of != v.Scheduler || v.Scheduler != "sh" && v.Scheduler != "mh" {
			im.note(v.n, fmt.Sprintf("%s: the scheduler %s has no such flag", flag, v.Scheduler))
			continue
		}
		v.Flags |= map[string]policy.Flags{"fallback": policy.Fallback, "1": policy.Fallback, "port": policy.HashPort, "2": policy.HashPort}[name]
	}
	if v.Health.Enabled() {
		inhibited := v.inhibit || v.inhibits == len(v.Servers)
		v.Health.Remove = !inhibited
		if !inhibited && v.inhibits > 0 {
			im.note(v.n, "inhibit_on_failure of some servers: on_failure is the service's, and it is remove")
		}
	}
	var families [2][]policy.Listen
	for _, l := range v.places {
		if l.All() && v.Persistence.Timeout == 0 {
			im.note(v.n, "all ports without persistence_timeout: IPVS refuses it, too")
			return
		}
		l.Proto = v.proto
		if l.Addr.Is4() {
			families[0] = append(families[0], l)
		} else {
			families[1] = append(families[1], l)
		}
	}
	for i, listen := range families {
		if len(listen) > 0 {
			im.specs = append(im.specs, im.family(v, listen, i == 0, len(families[1-i]) > 0))
		}
	}
}

// family is the service with the places and servers of one family.
func (im *importer) family(v *virtual, listen []policy.Listen, is4, both bool) policy.Spec {
	s := v.Spec
	s.Listen, s.Servers = listen, nil
	if both && s.Name != "" {
		s.Name += map[bool]string{true: "-v4", false: "-v6"}[is4]
	}
	var port uint16 // the only one that the service has
	if l := listen[0]; !slices.ContainsFunc(listen, func(m policy.Listen) bool { return m.First != l.First || m.Last != l.First }) {
		port = l.First
	}
	fits := func(server *policy.ServerSpec, n *node) bool {
		if server.Address.Addr().Is4() != is4 {
			if !both {
				im.note(n, "addresses of two families need a tunnel, and tunnels are not served yet")
			}
			return false
		}
		if (server.Mode == policy.DR || server.Mode == 0 && s.Mode == policy.DR) && server.Address.Port() != port {
			if server.Address.Port() != 0 {
				im.note(n, fmt.Sprintf("its port: with lb_kind DR packets stay as they are, so it is %d now", port))
			}
			server.Address = netip.AddrPortFrom(server.Address.Addr(), port)
		}
		return true
	}
	for i, server := range v.Servers {
		if fits(&server, v.checks[i]) {
			s.Servers = append(s.Servers, server)
		}
	}
	if v.Sorry != nil {
		sorry := *v.Sorry
		if s.Sorry = &sorry; !fits(s.Sorry, v.n) {
			s.Sorry = nil
		}
	}
	if v.mask != nil {
		im.mask(&s, v.mask, is4)
	}
	if sum := weights(s.Servers); s.Quorum > max(1, sum) {
		im.note(v.n, fmt.Sprintf("quorum %d: all servers together weigh %d, so it is that now", s.Quorum, sum))
		s.Quorum = sum
	}
	return s
}

func weights(servers []policy.ServerSpec) (sum int) {
	for _, s := range servers {
		sum += s.Weight
	}
	return sum
}

// mask reads how much of a client's address counts: a netmask, or the length of one.
func (im *importer) mask(s *policy.Spec, n *node, is4 bool) {
	bits := 128
	if is4 {
		bits = 32
	}
	text := n.value(0)
	length, err := strconv.Atoi(text)
	if mask, isMask := netip.ParseAddr(text); isMask == nil && mask.Is4() && is4 {
		length, err = -1, nil
		for i := range bits + 1 {
			if p, _ := netip.AddrFrom4([4]byte{255, 255, 255, 255}).Prefix(i); p.Addr() == mask {
				length = i
			}
		}
	}
	if err != nil || length < 1 || length > bits {
		im.note(n, fmt.Sprintf("%q is no netmask", text))
		return
	}
	if s.Persistence.Timeout == 0 {
		im.note(n, "there is no persistence_timeout")
		return
	}
	s.Persistence.HostBits = bits - length
}
