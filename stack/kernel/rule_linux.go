package kernel

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// rule is a policy rule of the shapes that this package writes; comparable. The netlink package's Rule is
// not enough: its lists leave out the action, so a nop looks like a lookup.
type rule struct {
	family    uint8 // AF_INET or AF_INET6
	pref      uint32
	action    uint8  // nl.FR_ACT_TO_TBL, _GOTO or _NOP
	table     uint32 // valid iff the action is FR_ACT_TO_TBL
	target    uint32 // the preference to go to, valid iff the action is FR_ACT_GOTO
	from, to  netip.Prefix
	iif       string
	proto     uint8 // IPPROTO, 0 = any
	sport     ports
	dport     ports
	protocol  uint8 // who made the rule
	uncertain bool  // has selectors that are not listed here
}

// kernelLocal is the rule that every namespace starts with.
func kernelLocal(family uint8) rule {
	return rule{family: family, action: nl.FR_ACT_TO_TBL, table: unix.RT_TABLE_LOCAL, protocol: unix.RTPROT_KERNEL}
}

// local says that r is a plain `lookup local`.
func (r rule) local() bool {
	r.pref, r.protocol = 0, unix.RTPROT_KERNEL
	return r == kernelLocal(r.family)
}

// first says that r is a plain `lookup local` at the kernel's place for it, whoever put it there.
func (r rule) first() bool { return r.local() && r.pref == 0 }

// ports is a range of ports, the zero value is any.
type ports struct{ first, last uint16 }

// ipNames are how iproute2 calls the protocols.
var ipNames = map[uint8]string{
	unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp", unix.IPPROTO_ICMP: "icmp", unix.IPPROTO_ICMPV6: "ipv6-icmp",
}

func (r rule) command(verb string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s rule %s pref %d", ip(r.family), verb, r.pref)
	if r.from.IsValid() {
		fmt.Fprintf(&b, " from %s", host(r.from))
	}
	if r.to.IsValid() {
		fmt.Fprintf(&b, " to %s", host(r.to))
	}
	if r.iif != "" {
		fmt.Fprintf(&b, " iif %s", r.iif)
	}
	if r.proto != 0 {
		fmt.Fprintf(&b, " ipproto %s", ipNames[r.proto])
	}
	fmt.Fprint(&b, r.sport.args("sport"), r.dport.args("dport"))
	switch r.action {
	case nl.FR_ACT_GOTO:
		fmt.Fprintf(&b, " goto %d", r.target)
	case nl.FR_ACT_NOP:
		fmt.Fprint(&b, " nop")
	default:
		fmt.Fprintf(&b, " lookup %d", r.table)
	}
	fmt.Fprintf(&b, " protocol %d", r.protocol)
	return b.String()
}

func (p ports) args(name string) string {
	switch p {
	case ports{}:
		return ""
	case ports{p.first, p.first}:
		return fmt.Sprintf(" %s %d", name, p.first)
	}
	return fmt.Sprintf(" %s %d-%d", name, p.first, p.last)
}

// message is the rule as the kernel takes it to add or delete it.
func (r rule) message() (family uint16, data []nl.NetlinkRequestData) {
	// struct fib_rule_hdr is struct rtmsg with two fields reserved and the action in the place of the type.
	h := &nl.RtMsg{RtMsg: unix.RtMsg{Family: r.family, Type: r.action}}
	data = append(data, h, attr32(nl.FRA_PRIORITY, r.pref), attr8(nl.FRA_PROTOCOL, r.protocol))
	if r.from.IsValid() {
		h.Src_len = uint8(r.from.Bits())
		data = append(data, nl.NewRtAttr(nl.FRA_SRC, r.from.Addr().AsSlice()))
	}
	if r.to.IsValid() {
		h.Dst_len = uint8(r.to.Bits())
		data = append(data, nl.NewRtAttr(nl.FRA_DST, r.to.Addr().AsSlice()))
	}
	if r.iif != "" {
		data = append(data, nl.NewRtAttr(nl.FRA_IIFNAME, nl.ZeroTerminated(r.iif)))
	}
	if r.proto != 0 {
		data = append(data, attr8(nl.FRA_IP_PROTO, r.proto))
	}
	if r.sport != (ports{}) {
		data = append(data, nl.NewRtAttr(nl.FRA_SPORT_RANGE, r.sport.encode()))
	}
	if r.dport != (ports{}) {
		data = append(data, nl.NewRtAttr(nl.FRA_DPORT_RANGE, r.dport.encode()))
	}
	switch r.action {
	case nl.FR_ACT_TO_TBL:
		data = append(data, attr32(nl.FRA_TABLE, r.table))
	case nl.FR_ACT_GOTO:
		data = append(data, attr32(nl.FRA_GOTO, r.target))
	}
	return unix.RTM_NEWRULE, data
}

func (p ports) encode() []byte {
	return binary.NativeEndian.AppendUint16(binary.NativeEndian.AppendUint16(nil, p.first), p.last)
}

// decodeRule reads one rule of a dump.
func decodeRule(m []byte) (rule, error) {
	h := nl.DeserializeRtMsg(m)
	r := rule{family: h.Family, action: h.Type, uncertain: h.Tos != 0 || h.Flags&unix.FIB_RULE_INVERT != 0}
	attrs, err := nl.ParseRouteAttr(m[h.Len():])
	if err != nil {
		return r, err
	}
	for _, a := range attrs {
		switch v := a.Value; a.Attr.Type {
		case nl.FRA_PRIORITY:
			r.pref = u32(v)
		case nl.FRA_PROTOCOL:
			r.protocol = v[0]
		case nl.FRA_SRC:
			r.from = prefix(v, h.Src_len)
		case nl.FRA_DST:
			r.to = prefix(v, h.Dst_len)
		case nl.FRA_IIFNAME:
			r.iif = nl.BytesToString(v)
		case nl.FRA_IP_PROTO:
			r.proto = v[0]
		case nl.FRA_SPORT_RANGE:
			r.sport = ports{binary.NativeEndian.Uint16(v), binary.NativeEndian.Uint16(v[2:])}
		case nl.FRA_DPORT_RANGE:
			r.dport = ports{binary.NativeEndian.Uint16(v), binary.NativeEndian.Uint16(v[2:])}
		case nl.FRA_TABLE:
			if r.action == nl.FR_ACT_TO_TBL {
				r.table = u32(v)
			}
		case nl.FRA_GOTO:
			r.target = u32(v)
		case nl.FRA_SUPPRESS_PREFIXLEN, nl.FRA_SUPPRESS_IFGROUP:
			r.uncertain = r.uncertain || u32(v) != ^uint32(0) // always listed: -1 means none
		case unix.FRA_PAD, nl.FRA_UNSPEC:
		default:
			// Newer kernels list the mask of a single port (all ones) with it.
			r.uncertain = r.uncertain || !slices.Contains([]uint16{fraSportMask, fraDportMask}, a.Attr.Type)
		}
	}
	return r, nil
}

// The masks of FRA_SPORT_RANGE and FRA_DPORT_RANGE, since Linux 6.15.
const (
	fraSportMask = 28
	fraDportMask = 29
)

// rules lists the rules of a family, in their order.
func (k *Kernel) rules(family uint8) ([]rule, error) {
	dump, err := k.dump(unix.RTM_GETRULE, unix.RTM_NEWRULE, &nl.RtMsg{RtMsg: unix.RtMsg{Family: family}})
	if err != nil {
		return nil, fmt.Errorf("list with %s rule: %w", ip(family), err)
	}
	list := make([]rule, 0, len(dump))
	for _, m := range dump {
		r, err := decodeRule(m)
		if err != nil {
			return nil, fmt.Errorf("list with %s rule: %w", ip(family), err)
		}
		list = append(list, r)
	}
	return list, nil
}
