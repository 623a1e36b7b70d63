package doctor

import (
	"encoding/binary"
	"errors"
	"net/netip"
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
	if v, err := ethtool(fd, dev.name, unix.ETHTOOL_GGRO); err == nil {
		dev.groOff = v == 0
	}
	if v, err := ethtool(fd, dev.name, unix.ETHTOOL_GTSO); err == nil {
		dev.tsoOff = v == 0
	}
	dev.uso = feature(fd, dev.name, "tx-udp-segmentation")
}

// ethtool does one command that returns an integer (struct ethtool_value).
func ethtool(fd int, device string, command uint32) (uint32, error) {
	value := [2]uint32{command}
	err := askDevice(fd, device, unsafe.Pointer(&value))
	return value[1], err
}

// askDevice has the driver fill in what a command points to.
func askDevice(fd int, device string, command unsafe.Pointer) error {
	var request struct { // struct ifreq
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(request.name[:unix.IFNAMSIZ-1], device)
	request.data = command
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return errno
	}
	return nil
}

// maxFeatures is more than any kernel has: 64 since 2021.
const maxFeatures = 256

// feature says whether one of the device's features is on, which have numbers of each kernel's own.
func feature(fd int, device, name string) bool {
	const featureNames, nameLen = 4, 32 // ETH_SS_FEATURES, ETH_GSTRING_LEN
	size := struct {
		command, _ uint32
		mask       uint64
		count      uint32
	}{command: unix.ETHTOOL_GSSET_INFO, mask: 1 << featureNames}
	if askDevice(fd, device, unsafe.Pointer(&size)) != nil || size.mask == 0 || size.count > maxFeatures {
		return false
	}
	names := struct {
		command, set, count uint32
		names               [maxFeatures][nameLen]byte
	}{command: unix.ETHTOOL_GSTRINGS, set: featureNames, count: size.count}
	values := struct {
		command, size uint32
		blocks        [maxFeatures / 32]struct{ available, requested, active, never uint32 }
	}{command: unix.ETHTOOL_GFEATURES, size: (size.count + 31) / 32}
	if askDevice(fd, device, unsafe.Pointer(&names)) != nil || askDevice(fd, device, unsafe.Pointer(&values)) != nil {
		return false
	}
	for i := range names.count {
		if unix.ByteSliceToString(names.names[i][:]) == name {
			return values.blocks[i/32].active>>(i%32)&1 != 0
		}
	}
	return false
}
