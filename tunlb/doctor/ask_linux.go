package doctor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"unsafe"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// whereTo asks this thread's kernel what it would do with a packet, as `ip route get` does. For one that comes in it
// includes the reverse path filter (EXDEV) and whether the device forwards (EHOSTUNREACH).
func (s *space) whereTo(q question) answer {
	h := &nl.RtMsg{RtMsg: unix.RtMsg{Family: unix.AF_INET, Dst_len: uint8(q.to.BitLen()), Flags: unix.RTM_F_LOOKUP_TABLE}}
	if q.to.Is6() {
		h.Family = unix.AF_INET6
	}
	req := nl.NewNetlinkRequest(unix.RTM_GETROUTE, 0)
	req.AddData(h)
	req.AddData(nl.NewRtAttr(unix.RTA_DST, q.to.AsSlice()))
	if q.from.IsValid() {
		h.Src_len = uint8(q.from.BitLen())
		req.AddData(nl.NewRtAttr(unix.RTA_SRC, q.from.AsSlice()))
	}
	if q.iif != "" {
		dev := s.link(q.iif)
		if dev == nil {
			return answer{err: unix.ENODEV}
		}
		req.AddData(nl.NewRtAttr(unix.RTA_IIF, nl.Uint32Attr(uint32(dev.index))))
	}
	if q.proto != 0 {
		req.AddData(nl.NewRtAttr(unix.RTA_IP_PROTO, []byte{q.proto}))
		req.AddData(nl.NewRtAttr(unix.RTA_SPORT, binary.BigEndian.AppendUint16(nil, q.sport)))
		req.AddData(nl.NewRtAttr(unix.RTA_DPORT, binary.BigEndian.AppendUint16(nil, q.dport)))
	}
	list, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWROUTE)
	if err == nil && len(list) == 0 {
		err = errors.New("the kernel gives no answer")
	}
	if err != nil {
		return answer{err: err}
	}
	return s.decodeAnswer(list[0])
}

func (s *space) decodeAnswer(m []byte) answer {
	h := nl.DeserializeRtMsg(m)
	attrs, err := nl.ParseRouteAttr(m[h.Len():])
	if err != nil {
		return answer{err: err}
	}
	a := answer{local: h.Type == unix.RTN_LOCAL}
	switch h.Type { // IPv6 answers with the route that refuses
	case unix.RTN_UNREACHABLE:
		a.err = unix.ENETUNREACH
	case unix.RTN_PROHIBIT:
		a.err = unix.EACCES
	case unix.RTN_BLACKHOLE:
		a.err = unix.EINVAL
	}
	names := s.deviceNames()
	for _, attr := range attrs {
		switch v := attr.Value; attr.Attr.Type {
		case unix.RTA_OIF:
			a.device = names[int(binary.NativeEndian.Uint32(v))]
		case unix.RTA_GATEWAY:
			a.gateway, _ = netip.AddrFromSlice(v)
		case unix.RTA_VIA: // another family's, behind that family's number
			a.gateway, _ = netip.AddrFromSlice(v[2:])
		case unix.RTA_PREFSRC:
			a.source, _ = netip.AddrFromSlice(v)
		}
	}
	return a
}

// readOffloads asks the driver, as ethtool does. What it does not know stays false.
func readOffloads(dev *link) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if v, err := ethtool(fd, dev.name, unix.ETHTOOL_GTXCSUM); err == nil {
		dev.txOff = v == 0
	}
	const lro = 1 << 15 // ETH_FLAG_LRO
	if v, err := ethtool(fd, dev.name, unix.ETHTOOL_GFLAGS); err == nil {
		dev.lro = v&lro != 0
	}
}

// ethtool does one command that returns an integer (struct ethtool_value).
func ethtool(fd int, device string, command uint32) (uint32, error) {
	value := [2]uint32{command}
	var request struct { // struct ifreq
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(request.name[:unix.IFNAMSIZ-1], device)
	request.data = unsafe.Pointer(&value)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return 0, errno
	}
	return value[1], nil
}

var (
	filterFamilies = map[uint8]string{unix.NFPROTO_INET: "inet", unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6", unix.NFPROTO_BRIDGE: "bridge"}
	filterHooks    = []string{"prerouting", "input", "forward", "output", "postrouting"}
)

// readChains lists the packet filter's base chains, as far as this process may see them.
func (s *space) readChains() {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETCHAIN, unix.NLM_F_DUMP)
	req.AddData(&nl.Nfgenmsg{})
	list, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return
	}
	for _, m := range list {
		if c, ok := decodeChain(m); ok {
			s.chains = append(s.chains, c)
		}
	}
	for _, family := range []string{"ip", "ip6"} { // of the older iptables
		names, _ := os.ReadFile(fmt.Sprintf("/proc/thread-self/net/%s_tables_names", family))
		for name := range strings.Lines(string(names)) {
			s.chains = append(s.chains, chain{family: family, table: strings.TrimSpace(name), name: "(iptables-legacy)", hook: "forward"})
		}
	}
}

// decodeChain is false for a chain that no packet enters by itself.
func decodeChain(m []byte) (c chain, base bool) {
	const header = 4 // struct nfgenmsg
	if len(m) < header {
		return c, false
	}
	c.family = filterFamilies[m[0]]
	attrs, err := nl.ParseRouteAttr(m[header:])
	if err != nil {
		return c, false
	}
	for _, a := range attrs {
		switch a.Attr.Type &^ unix.NLA_F_NESTED {
		case unix.NFTA_CHAIN_TABLE:
			c.table = nl.BytesToString(a.Value)
		case unix.NFTA_CHAIN_NAME:
			c.name = nl.BytesToString(a.Value)
		case unix.NFTA_CHAIN_POLICY:
			c.drop = binary.BigEndian.Uint32(a.Value) == 0
		case unix.NFTA_CHAIN_HOOK:
			nested, _ := nl.ParseRouteAttr(a.Value)
			for _, h := range nested {
				if n := int(binary.BigEndian.Uint32(h.Value)); h.Attr.Type == unix.NFTA_HOOK_HOOKNUM && n < len(filterHooks) {
					c.hook, base = filterHooks[n], true
				}
			}
		}
	}
	return c, base && c.family != ""
}
