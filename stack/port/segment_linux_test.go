package port

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/stack/packet"
)

// segment is an Ethernet segment with two stations: a kernel, host, and a port.
//
//	host 10.9.0.1, fd00:9::1 -- port, which plays 10.9.0.2, fd00:9::2
type segment struct {
	Port
	host   *space
	device string     // of the host
	mac    packet.MAC // likewise
	lan    *space     // where the port's device is
}

// playedMAC is whom the host takes the port for.
var playedMAC = packet.MAC{0x02, 0, 0, 0, 0, 0x02}

var (
	played4 = netip.MustParseAddrPort("10.9.0.2:5353")
	played6 = netip.MustParseAddrPort("[fd00:9::2]:5353")
)

// kind is a way to open a port on a segment.
type kind struct {
	name  string
	super bool // whole super-packets come in
	open  func(t *testing.T) *segment
}

var kinds = []kind{
	{"tap-auto", true, func(t *testing.T) *segment { return tapSegment(t, OffloadAuto) }},
	{"tap-tcp", false, func(t *testing.T) *segment { return tapSegment(t, OffloadTCP) }},
	{"tap-off", false, func(t *testing.T) *segment { return tapSegment(t, OffloadOff) }},
	{"packet", true, packetSegment},
}

func eachKind(t *testing.T, f func(t *testing.T, k kind)) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) { f(t, k) })
	}
}

// tapSegment has no cable: the kernel's end of the TAP is the host.
func tapSegment(t testing.TB, o Offload) *segment {
	s := newSpace(t)
	p := s.openTAP(t, TAPConfig{Offload: o})
	return newSegment(t, p, s, p.Name(), s)
}

// packetSegment has one: host eth0 -- veth -- p0 lan.
func packetSegment(t *testing.T) *segment {
	host, lan := newSpace(t), newSpace(t)
	host.veth(t, "eth0", lan, "p0")
	return newSegment(t, lan.openPacket(t, PacketConfig{Interface: "p0"}), host, "eth0", lan)
}

func newSegment(t testing.TB, p Port, host *space, device string, lan *space) *segment {
	host.host(t, device, 1)
	link := host.link(t, device)
	for _, a := range []netip.AddrPort{played4, played6} {
		err := host.nl.NeighSet(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, IP: a.Addr().AsSlice(), HardwareAddr: playedMAC[:], State: netlink.NUD_PERMANENT,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return &segment{p, host, device, packet.MAC(link.Attrs().HardwareAddr), lan}
}

// localAddr is where the host can listen, of the family of like.
func localAddr(like netip.AddrPort, port string) string {
	if like.Addr().Is6() {
		return "[fd00:9::1]:" + port
	}
	return "10.9.0.1:" + port
}

// readUDP reads until a UDP packet for dst comes.
func (s *segment) readUDP(t testing.TB, dst netip.AddrPort) []byte {
	t.Helper()
	buf := make([]byte, packet.BufferSize)
	for {
		n, err := s.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		if h, ok := packet.DecodeEthernet(buf[:n]); !ok || h.Type != packet.EtherTypeOf(dst.Addr().Is6()) {
			continue
		}
		if got, _, ok := udpDestination(buf[packet.VnetLen+packet.EthernetLen : n]); ok && got == dst {
			return buf[:n]
		}
	}
}

// frame is one from the port to the host.
func (s *segment) frame(from netip.AddrPort, local string, payload []byte, gso int) []byte {
	return packet.AppendEthernet(nil, udpFrame(from, netip.MustParseAddrPort(local), payload, gso), s.mac, playedMAC)
}

// experimental is the type of frames that mean nothing to anybody (IEEE 802, local).
const experimental = 0x88b5

// raw has the kernel send bare Ethernet frames out of the device, of 60 bytes and of type
// experimental behind their tags: one for each mark.
func (s *space) raw(t testing.TB, device string, dst packet.MAC, marks string, tags ...uint16) {
	t.Helper()
	head := append([]byte{}, dst[:]...)
	head = append(head, 0x02, 0, 0, 0, 0, 0x77)
	for _, id := range tags {
		head = binary.BigEndian.AppendUint16(append(head, 0x81, 0x00), id)
	}
	head = binary.BigEndian.AppendUint16(head, experimental)
	to := &unix.SockaddrLinklayer{Ifindex: s.link(t, device).Attrs().Index}
	s.do(t, func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		frame := append(head, make([]byte, 60-len(head))...)
		for i := range marks {
			frame[len(head)] = marks[i]
			if err := unix.Sendto(fd, frame, 0, to); err != nil {
				return err
			}
		}
		return nil
	})
}

// marks reads until the experimental frame with mark last comes, and returns those before it.
func marks(t testing.TB, p Port, last byte) (got []byte) {
	t.Helper()
	buf := make([]byte, packet.BufferSize)
	for {
		n, err := p.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		h, ok := packet.DecodeEthernet(buf[:n])
		if !ok || h.Type != experimental {
			continue
		}
		mark := buf[packet.VnetLen+packet.EthernetLen]
		if mark == last {
			return got
		}
		got = append(got, mark)
	}
}

// openTAP and openPacket are what open is for TUN.
func (s *space) openTAP(t testing.TB, cfg TAPConfig) Port {
	t.Helper()
	cfg.NetNS = s.path
	return opened(t)(OpenTAP(cfg))
}

func (s *space) openPacket(t testing.TB, cfg PacketConfig) Port {
	t.Helper()
	cfg.NetNS = s.path
	return opened(t)(OpenPacket(cfg))
}

func opened(t testing.TB) func(Port, error) Port {
	return func(p Port, err error) Port {
		t.Helper()
		if errors.Is(err, ErrUnavailable) {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		})
		return p
	}
}

func (s *space) link(t testing.TB, name string) netlink.Link {
	t.Helper()
	link, err := s.nl.LinkByName(name)
	if err != nil {
		t.Fatalf("link %s: %v", name, err)
	}
	return link
}

func (s *space) setUp(t testing.TB, name string) {
	t.Helper()
	if err := s.nl.LinkSetUp(s.link(t, name)); err != nil {
		t.Fatal(err)
	}
}

// veth lays a cable between two spaces.
func (s *space) veth(t testing.TB, name string, other *space, otherName string) {
	t.Helper()
	fd, err := openNetNS(other.path)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	err = s.nl.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: otherName, PeerNamespace: netlink.NsFd(fd)})
	if err != nil {
		t.Fatal(err)
	}
	s.setUp(t, name)
	other.setUp(t, otherName)
	s.awaitCarrier(t, name)
	other.awaitCarrier(t, otherName)
}

// awaitCarrier returns when the device passes frames, which is some deferred work after it was set up.
func (s *space) awaitCarrier(t testing.TB, name string) {
	t.Helper()
	for s.link(t, name).Attrs().OperState != netlink.OperUp {
		runtime.Gosched()
	}
}

// host sets a device up with 10.9.0.<n>/24 and fd00:9::<n>/64.
func (s *space) host(t testing.TB, device string, n byte) {
	t.Helper()
	s.setUp(t, device)
	for _, p := range []netip.Prefix{
		netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 9, 0, n}), 24),
		netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 3: 0x09, 15: n}), 64),
	} {
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
		if p.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := s.nl.AddrAdd(s.link(t, device), addr); err != nil {
			t.Fatalf("add %s to %s: %v", p, device, err)
		}
		s.awaitLocal(t, addr.IP)
	}
	s.awaitCarrierUnlessTAP(t, device)
}

// awaitCarrierUnlessTAP: a TAP's state is unknown forever, and it passes frames at once.
func (s *space) awaitCarrierUnlessTAP(t testing.TB, device string) {
	t.Helper()
	if s.link(t, device).Type() != "tuntap" {
		s.awaitCarrier(t, device)
	}
}

// noTxOffload is `ethtool -K device tx off`.
func (s *space) noTxOffload(t testing.TB, device string) {
	t.Helper()
	s.do(t, func() error {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		value := struct{ command, value uint32 }{unix.ETHTOOL_STXCSUM, 0}
		request := struct {
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			_    [16]byte
		}{data: unsafe.Pointer(&value)}
		copy(request.name[:], device)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
			return errno
		}
		return nil
	})
}
