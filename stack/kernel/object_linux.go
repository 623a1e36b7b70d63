package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// object is one thing in the kernel that can be added and deleted: a rule, route, address or proxy. All
// are comparable, so that wanted and present objects can be subtracted from each other.
type object interface {
	// command is the ip(8) command that does what verb ("add", "del") asks for.
	command(verb string) string
	// message is the netlink message that adds the object; the type that deletes it is the next one.
	message() (newType uint16, data []nl.NetlinkRequestData)
}

// route leads through a device without a gateway.
type route struct {
	dst   netip.Prefix
	table uint32
	dev   string
	index int
}

// address is an address on a device; the prefix keeps the host's bits.
type address struct {
	prefix netip.Prefix
	dev    string
	index  int
}

// proxy is an IPv6 proxy neighbour. The package doc says what for.
type proxy struct {
	addr  netip.Addr
	dev   string
	index int
}

func (r route) command(verb string) string {
	return fmt.Sprintf("%s route %s %s dev %s table %d protocol %d", ip(familyOf(r.dst.Addr())), verb, r.dst, r.dev, r.table, protocol)
}

func (r route) message() (uint16, []nl.NetlinkRequestData) {
	h := &nl.RtMsg{RtMsg: unix.RtMsg{
		Family: familyOf(r.dst.Addr()), Dst_len: uint8(r.dst.Bits()),
		Protocol: protocol, Scope: unix.RT_SCOPE_LINK, Type: unix.RTN_UNICAST,
	}}
	data := []nl.NetlinkRequestData{h, attr32(unix.RTA_TABLE, r.table), attr32(unix.RTA_OIF, uint32(r.index))}
	if r.dst.Bits() > 0 {
		data = append(data, nl.NewRtAttr(unix.RTA_DST, r.dst.Addr().AsSlice()))
	}
	return unix.RTM_NEWROUTE, data
}

func (a address) command(verb string) string {
	return fmt.Sprintf("%s addr %s %s dev %s", ip(familyOf(a.prefix.Addr())), verb, a.prefix, a.dev)
}

func (a address) message() (uint16, []nl.NetlinkRequestData) {
	h := nl.NewIfAddrmsg(int(familyOf(a.prefix.Addr())))
	h.Prefixlen, h.Index = uint8(a.prefix.Bits()), uint32(a.index)
	if a.prefix.Addr().Is6() {
		// Beyond a TUN is nobody who may have it already. Without the flag it is tentative until the kernel has found time for it, and a
		// connection that is begun meanwhile comes from a link-local address, for good.
		h.Flags = unix.IFA_F_NODAD
	}
	raw := a.prefix.Addr().AsSlice()
	return unix.RTM_NEWADDR, []nl.NetlinkRequestData{
		h, nl.NewRtAttr(unix.IFA_LOCAL, raw), nl.NewRtAttr(unix.IFA_ADDRESS, raw), attr8(ifaProto, protocol),
	}
}

func (p proxy) command(verb string) string {
	return fmt.Sprintf("ip -6 neigh %s proxy %s dev %s protocol %d", verb, p.addr, p.dev, protocol)
}

func (p proxy) message() (uint16, []nl.NetlinkRequestData) {
	h := &netlink.Ndmsg{Family: unix.AF_INET6, Index: uint32(p.index), State: unix.NUD_PERMANENT, Flags: unix.NTF_PROXY}
	return unix.RTM_NEWNEIGH, []nl.NetlinkRequestData{
		h, nl.NewRtAttr(netlink.NDA_DST, p.addr.AsSlice()), attr8(netlink.NDA_PROTOCOL, protocol),
	}
}

// ifaProto is IFA_PROTO: who added an address. Older kernels than Linux 5.18 take no notice of it.
const ifaProto = 11

// add puts o into the kernel.
func (k *Kernel) add(o object) error {
	typ, data := o.message()
	return k.execute(typ, unix.NLM_F_CREATE|unix.NLM_F_EXCL, data)
}

// del takes o out of the kernel. That it, or its device, is gone already is no error.
func (k *Kernel) del(o object) error {
	typ, data := o.message()
	err := k.execute(typ+1, 0, data)
	for _, gone := range []error{unix.ENOENT, unix.ESRCH, unix.ENODEV, unix.EADDRNOTAVAIL} {
		if errors.Is(err, gone) {
			return nil
		}
	}
	return err
}

func (k *Kernel) execute(typ uint16, flags uint16, data []nl.NetlinkRequestData) error {
	req := k.request(typ, flags|unix.NLM_F_ACK)
	for _, d := range data {
		req.AddData(d)
	}
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// dump lists the objects that header asks for. A list that changed while it was read is read again.
func (k *Kernel) dump(typ, reply uint16, header ...nl.NetlinkRequestData) ([][]byte, error) {
	const tries = 10
	for try := 1; ; try++ {
		req := k.request(typ, unix.NLM_F_DUMP)
		for _, d := range header {
			req.AddData(d)
		}
		list, err := req.Execute(unix.NETLINK_ROUTE, reply)
		if !errors.Is(err, nl.ErrDumpInterrupted) || try == tries {
			return list, err
		}
	}
}

func (k *Kernel) request(typ uint16, flags uint16) *nl.NetlinkRequest {
	return &nl.NetlinkRequest{
		NlMsghdr: unix.NlMsghdr{Len: unix.SizeofNlMsghdr, Type: typ, Flags: unix.NLM_F_REQUEST | flags},
		Sockets:  k.sockets,
	}
}

func attr8(typ int, v uint8) *nl.RtAttr   { return nl.NewRtAttr(typ, []byte{v}) }
func attr32(typ int, v uint32) *nl.RtAttr { return nl.NewRtAttr(typ, nl.Uint32Attr(v)) }
func u32(b []byte) uint32                 { return binary.NativeEndian.Uint32(b) }

// prefix is what raw bytes of an address and a length say; the zero Prefix if they say nothing.
func prefix(raw []byte, bits uint8) netip.Prefix {
	addr, _ := netip.AddrFromSlice(raw)
	return netip.PrefixFrom(addr, int(bits))
}

func familyOf(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// ip is the command for a family.
func ip(family uint8) string {
	if family == unix.AF_INET6 {
		return "ip -6"
	}
	return "ip"
}

// host is p without a length that goes without saying.
func host(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}
