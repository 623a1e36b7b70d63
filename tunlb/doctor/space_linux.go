package doctor

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// tunlbProtocol marks tunlb's own rules (package stack/kernel).
const tunlbProtocol = 174

// lookInto reads what there is to know of the network namespace at path.
func lookInto(path string) *space {
	s := &space{path: path, sysctls: map[string]string{}}
	s.err = within(path, s.read)
	return s
}

// within runs f in the network namespace at path, on the thread of the caller if that is its own.
func within(path string, f func() error) error {
	if path == "" {
		return f()
	}
	done := make(chan error)
	go func() { done <- visit(path, f) }() // ends with f
	return <-done
}

// visit gives its thread back only when it is home again; else the thread ends with the goroutine.
func visit(path string, f func() error) error {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		return err
	}
	defer home.Close()
	there, err := netns.GetFromPath(path)
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer there.Close()
	if kind, err := unix.IoctlRetInt(int(there), unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		runtime.UnlockOSThread()
		return errNotNetNS
	}
	if err := netns.Set(there); err != nil {
		runtime.UnlockOSThread()
		return err
	}
	err = f()
	if netns.Set(home) == nil {
		runtime.UnlockOSThread()
	}
	return err
}

// read runs inside the namespace.
func (s *space) read() error {
	for _, step := range []func() error{s.readLinks, s.readAddresses, s.readRules, s.readNeighbours, s.readSysctls} {
		if err := step(); err != nil {
			return err
		}
	}
	s.readChains()
	return nil
}

// complete takes a list that changed while it was read as it is.
func complete(err error) error {
	if errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil
	}
	return err
}

func (s *space) readLinks() error {
	list, err := netlink.LinkList()
	if complete(err) != nil {
		return fmt.Errorf("list devices: %w", err)
	}
	names := map[int]string{}
	for _, l := range list {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	for _, l := range list {
		at := l.Attrs()
		dev := link{
			name: at.Name, index: at.Index, mtu: at.MTU, master: names[at.MasterIndex],
			up: at.Flags&net.FlagUp != 0, carrier: at.RawFlags&unix.IFF_LOWER_UP != 0,
			ethernet: at.EncapType == "ether", loopback: at.Flags&net.FlagLoopback != 0,
		}
		switch l := l.(type) {
		case *netlink.Device: // hardware
		case *netlink.Tuntap:
			dev.kind, dev.tap = "tun", l.Mode == netlink.TUNTAP_MODE_TAP
		case *netlink.Bridge:
			dev.kind, dev.nfCall = "bridge", map[int]bool{}
			for family, table := range bridgeTables {
				b, err := os.ReadFile("/sys/class/net/" + at.Name + "/bridge/nf_call_" + table) // shows the mount's own namespace
				dev.nfCall[family] = err == nil && s.path == "" && strings.TrimSpace(string(b)) == "1"
			}
		case *netlink.Vlan:
			if dev.kind = "vlan"; at.NetNsID < 0 { // else its number is of another namespace
				dev.parent = names[at.ParentIndex]
			}
		default:
			dev.kind = l.Type()
		}
		if !dev.loopback {
			readOffloads(&dev)
		}
		s.links = append(s.links, dev)
	}
	return nil
}

func (s *space) deviceNames() map[int]string {
	names := map[int]string{}
	for _, l := range s.links {
		names[l.index] = l.name
	}
	return names
}

func (s *space) readAddresses() error {
	list, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if complete(err) != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	names := s.deviceNames()
	for _, a := range list {
		s.addresses = append(s.addresses, address{prefixOf(a.IPNet), names[a.LinkIndex]})
	}
	return nil
}

// prefixOf keeps the host's bits; the zero prefix is none.
func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	a, _ := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if a = a.Unmap(); bits == 128 && a.Is4() {
		ones -= 96
	}
	return netip.PrefixFrom(a, ones)
}

func (s *space) readNeighbours() error {
	s.neighbours = nil
	names := s.deviceNames()
	list, err := netlink.NeighList(0, 0)
	if complete(err) != nil {
		return fmt.Errorf("list neighbours: %w", err)
	}
	proxies, err := netlink.NeighProxyList(0, 0)
	if complete(err) != nil {
		return fmt.Errorf("list proxy neighbours: %w", err)
	}
	for _, n := range append(list, proxies...) {
		a, _ := netip.AddrFromSlice(n.IP)
		state := stateName(n.State)
		if n.Flags&netlink.NTF_PROXY != 0 {
			state = "proxy"
		}
		s.neighbours = append(s.neighbours, neighbour{a.Unmap(), names[n.LinkIndex], state})
	}
	return nil
}

func stateName(state int) string {
	switch {
	case state&netlink.NUD_FAILED != 0:
		return "failed"
	case state&netlink.NUD_INCOMPLETE != 0:
		return "incomplete"
	case state&(netlink.NUD_PERMANENT|netlink.NUD_NOARP) != 0:
		return "static"
	case state&netlink.NUD_REACHABLE != 0:
		return "reachable"
	case state&(netlink.NUD_STALE|netlink.NUD_DELAY|netlink.NUD_PROBE) != 0:
		return "stale"
	}
	return ""
}

func (s *space) readRules() error {
	for n, family := range map[int]int{4: netlink.FAMILY_V4, 6: netlink.FAMILY_V6} {
		list, err := netlink.RuleList(family)
		if errors.Is(err, unix.EAFNOSUPPORT) {
			continue // a kernel without IPv6
		}
		if complete(err) != nil {
			return fmt.Errorf("list policy rules: %w", err)
		}
		for _, r := range list {
			s.rules = append(s.rules, ruleOf(n, r))
		}
	}
	return nil
}

func ruleOf(family int, r netlink.Rule) rule {
	selects := r.Src != nil || r.Dst != nil || r.IifName != "" || r.OifName != "" || r.Mark != 0 || r.IPProto != 0 ||
		r.Sport != nil || r.Dport != nil || r.UIDRange != nil || r.Tos != 0 || r.Invert || r.TunID != 0
	out := rule{
		family: family, pref: r.Priority, ours: r.Protocol == tunlbProtocol, iif: r.IifName,
		local: r.Table == unix.RT_TABLE_LOCAL && !selects,
	}
	out.text, out.plain = ruleText(r)
	src, dst := prefixOf(r.Src), prefixOf(r.Dst)
	within := func(p netip.Prefix, a netip.Addr) bool { return !p.IsValid() || p.Masked().Contains(a) }
	between := func(p *netlink.RulePortRange, port uint16) bool { return p == nil || p.Start <= port && port <= p.End }
	out.covers = func(q question) bool {
		iif := q.iif
		if iif == "" {
			iif = "lo"
		}
		match := within(src, q.from) && within(dst, q.to) && (r.IifName == "" || r.IifName == iif) && r.OifName == "" &&
			r.Mark == 0 && r.Tos == 0 && r.UIDRange == nil && r.TunID == 0 && (r.IPProto == 0 || r.IPProto == int(q.proto)) &&
			between(r.Sport, q.sport) && between(r.Dport, q.dport)
		return match != r.Invert && r.Table != 0 // without a table: a goto, or a lookup of VRFs' tables
	}
	return out
}

// ruleText is the rule as `ip rule add` takes it.
func ruleText(r netlink.Rule) (text string, plain bool) {
	var b strings.Builder
	word := func(format string, args ...any) {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, format, args...)
	}
	if r.Src != nil {
		word("from %s", r.Src)
	}
	if r.Dst != nil {
		word("to %s", r.Dst)
	}
	if r.IifName != "" {
		word("iif %s", r.IifName)
	}
	if r.IPProto != 0 {
		word("ipproto %d", r.IPProto)
	}
	if r.Sport != nil {
		word("sport %d-%d", r.Sport.Start, r.Sport.End)
	}
	if r.Dport != nil {
		word("dport %d-%d", r.Dport.Start, r.Dport.End)
	}
	word("lookup %d", r.Table)
	plain = r.Table != 0 && r.OifName == "" && r.Mark == 0 && r.Tos == 0 && r.UIDRange == nil && r.TunID == 0 && !r.Invert && r.SuppressPrefixlen < 0 && r.SuppressIfgroup < 0
	return b.String(), plain
}

func (s *space) readSysctls() error {
	paths := []string{
		"ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv4/tcp_early_demux", "ipv4/ip_local_port_range",
		"netfilter/nf_conntrack_count", "netfilter/nf_conntrack_max",
	}
	for _, table := range bridgeTables {
		paths = append(paths, "bridge/bridge-nf-call-"+table)
	}
	for _, name := range []string{"rp_filter", "arp_ignore", "proxy_arp", "accept_local"} {
		paths = append(paths, "ipv4/conf/all/"+name)
	}
	for _, l := range s.links {
		for _, name := range []string{"rp_filter", "arp_ignore", "proxy_arp", "accept_local", "forwarding"} {
			paths = append(paths, "ipv4/conf/"+l.name+"/"+name)
		}
	}
	for _, path := range paths {
		if b, err := os.ReadFile("/proc/sys/net/" + path); err == nil { // it is the kernel's choice what it has
			s.sysctls[path] = strings.TrimSpace(string(b))
		}
	}
	s.filtered = counter("TcpExt:", "IPReversePathFilter")
	return nil
}

// counter reads one of /proc/net/netstat, where each line of names is followed by one of numbers.
func counter(group, name string) uint64 {
	b, _ := os.ReadFile("/proc/thread-self/net/netstat")
	var names []string
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != group {
			continue
		}
		for i := range names {
			if names[i] == name && i < len(fields) {
				n, _ := strconv.ParseUint(fields[i], 10, 64)
				return n
			}
		}
		names = fields
	}
	return 0
}
