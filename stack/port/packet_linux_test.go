package port

import (
	"errors"
	"net/netip"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/stack/packet"
)

// Tags are taken out of what a packet socket reads: a VLAN's frames would look like the untagged
// network's. Number 0 is no VLAN.
func TestPacketLeavesOutVLANs(t *testing.T) {
	s := packetSegment(t)
	s.host.raw(t, s.device, playedMAC, "v", 7)
	s.host.raw(t, s.device, playedMAC, "q", 7, 8)
	s.host.raw(t, s.device, playedMAC, "p", 5<<13) // priority 5
	s.host.raw(t, s.device, playedMAC, "V", 5<<13|4094)
	s.host.raw(t, s.device, playedMAC, "u.")
	if got := marks(t, s, '.'); string(got) != "pu" {
		t.Errorf("got %q, want %q", got, "pu")
	}
}

// With a station only what is for it or for a group comes in, with a priority or without.
func TestPacketStation(t *testing.T) {
	host, lan := newSpace(t), newSpace(t)
	host.veth(t, "eth0", lan, "p0")
	s := newSegment(t, lan.openPacket(t, PacketConfig{Interface: "p0", Station: playedMAC}), host, "eth0", lan)
	other, near := packet.MAC{2, 0, 0, 0, 0, 9}, packet.MAC{4, 0, 0, 0, 0, 2}
	for mark, dst := range map[string]packet.MAC{"o": other, "n": near, "f": {2, 0, 0, 0, 1, 2}} {
		host.raw(t, s.device, dst, mark)
	}
	host.raw(t, s.device, playedMAC, "u")
	host.raw(t, s.device, packet.Broadcast, "b")
	host.raw(t, s.device, packet.MAC{0x33, 0x33, 0, 0, 0, 1}, "m")
	host.raw(t, s.device, playedMAC, "p", 5<<13)
	host.raw(t, s.device, playedMAC, "v", 7)
	host.raw(t, s.device, other, "q", 5<<13)
	host.raw(t, s.device, playedMAC, ".")
	if got := marks(t, s, '.'); string(got) != "ubmp" {
		t.Errorf("got %q, want %q", got, "ubmp")
	}
}

// What the machine itself sends on the interface is not for us: as with a frame of our own, it would
// look as if it came from the segment.
func TestPacketIgnoresOutgoing(t *testing.T) {
	s := packetSegment(t)
	s.lan.raw(t, s.Name(), playedMAC, "o")
	s.host.raw(t, s.device, playedMAC, "i.")
	if got := marks(t, s, '.'); string(got) != "i" {
		t.Errorf("got %q, want %q", got, "i")
	}
}

// Close leaves the interface as it was.
func TestPacketIsPromiscuous(t *testing.T) {
	s := packetSegment(t)
	if n := s.lan.link(t, s.Name()).Attrs().Promisc; n != 1 {
		t.Errorf("promiscuous for %d, want 1", n)
	}
	must(t, s.Close())
	if n := s.lan.link(t, s.Name()).Attrs().Promisc; n != 0 {
		t.Errorf("after Close: promiscuous for %d, want 0", n)
	}
}

func TestFailedOpenPacketLeaksNothing(t *testing.T) {
	s := newSpace(t)
	s.veth(t, "eth0", s, "p0")
	tun := s.open(t, TUNConfig{})
	for _, tt := range []struct {
		cfg  PacketConfig
		want error
		says string
	}{
		{PacketConfig{Interface: "p9"}, unix.ENODEV, "see `ip -br link`"},
		{PacketConfig{}, nil, ""},
		{PacketConfig{Interface: "sixteen-bytes-aa"}, unix.EINVAL, ""},
		{PacketConfig{Interface: "lo"}, nil, "not an Ethernet interface (its link type is 772)"},
		{PacketConfig{Interface: tun.Name()}, nil, "not an Ethernet interface (its link type is 65534)"},
		{PacketConfig{Interface: "p0", Offload: OffloadOff}, nil, "`ethtool -K p0 gro off lro off`"},
		{PacketConfig{Interface: "p0", Offload: OffloadTCP}, nil, "leave it out"},
		{PacketConfig{Interface: "p0", NetNS: "/nonexistent/netns"}, unix.ENOENT, ""},
	} {
		cfg := tt.cfg
		if cfg.NetNS == "" {
			cfg.NetNS = s.path
		}
		failsCleanly(t, func() (Port, error) { return OpenPacket(cfg) }, tt.want, tt.says)
	}
	if n := s.link(t, "p0").Attrs().Promisc; n != 0 {
		t.Errorf("p0 stayed promiscuous for %d", n)
	}
}

// An interface that is down can have a port, and brings something as soon as it is up.
func TestPacketOnInterfaceThatIsDown(t *testing.T) {
	host, lan := newSpace(t), newSpace(t)
	host.veth(t, "eth0", lan, "p0")
	must(t, lan.nl.LinkSetDown(lan.link(t, "p0")))
	p := lan.openPacket(t, PacketConfig{Interface: "p0"})
	got := make(chan string)
	go func() { got <- string(marks(t, p, '.')) }()
	lan.setUp(t, "p0")
	host.awaitCarrier(t, "eth0")
	host.raw(t, "eth0", playedMAC, "x.")
	if g := <-got; g != "x" {
		t.Errorf("got %q", g)
	}
}

// A name may change under a port, and so may the other interfaces of the namespace.
func TestPacketSurvivesOtherChanges(t *testing.T) {
	s := packetSegment(t)
	s.lan.veth(t, "other0", s.lan, "other1")
	must(t, s.lan.nl.LinkDel(s.lan.link(t, "other0")))
	must(t, s.lan.nl.LinkSetName(s.lan.link(t, "p0"), "renamed0"))
	must(t, s.Port.(*ringPort).awaitFrame(0)) // hears of it all
	must(t, s.Write(s.frame(played4, localAddr(played4, "9"), nil, 0)))
	s.host.raw(t, s.device, playedMAC, "x.")
	if got := marks(t, s, '.'); string(got) != "x" || s.MTU() != 1500 {
		t.Errorf("got %q, MTU %d", got, s.MTU())
	}
}

func TestPacketCarriedOff(t *testing.T) {
	s := packetSegment(t)
	_, result := reader(s)
	fd, err := openNetNS(s.host.path)
	must(t, err)
	defer unix.Close(fd)
	must(t, s.lan.nl.LinkSetNsFd(s.lan.link(t, "p0"), fd))
	if err := <-result; !errors.Is(err, ErrGone) {
		t.Errorf("read: %v, want %v", err, ErrGone)
	}
}

// Frames that found the ring full are counted: what was sent has come or is counted.
func TestPacketOverruns(t *testing.T) {
	s := packetSegment(t)
	const sent = 1000
	s.host.raw(t, s.device, playedMAC, strings.Repeat("x", sent))
	lost := StatsOf(s.Port).Overruns
	if lost < sent-slots || lost > sent-slots+100 { // the host has something to say of its own accord
		t.Errorf("%d overruns", lost)
	}
	if again := StatsOf(s.Port).Overruns; again < lost || again > lost+100 {
		t.Errorf("%d overruns, asked once more %d", lost, again)
	}
	got := make(chan int)
	go func() { got <- len(marks(t, s, '.')) }()
	for n := -1; n < 0; { // the ring has no room for the last one until some have been read
		s.host.raw(t, s.device, playedMAC, ".")
		select {
		case n = <-got:
			if n == 0 || n >= sent || n+int(lost) < sent {
				t.Errorf("%d came, %d were lost, of %d", n, lost, sent)
			}
		default:
			runtime.Gosched()
		}
	}
	must(t, s.Close())
	if after := StatsOf(s.Port).Overruns; after < lost {
		t.Errorf("after Close: %d overruns, before %d", after, lost)
	}
}

// An interface without offloads takes super-packets all the same: the kernel does what it can't.
func TestPacketOnPlainInterface(t *testing.T) {
	s := packetSegment(t)
	s.lan.noTxOffload(t, s.Name())
	for _, from := range []netip.AddrPort{played4, played6} {
		c := s.host.listenUDP(t, localAddr(from, "53"))
		must(t, s.Write(s.frame(from, localAddr(from, "53"), make([]byte, 2500), 1000)))
		buf := make([]byte, 4096)
		for left := 2500; left > 0; {
			n, err := c.Read(buf)
			must(t, err)
			if n > 1000 {
				t.Fatalf("a datagram of %d bytes", n)
			}
			left -= n
		}
	}
	if n := StatsOf(s.Port).Segmented; n > 0 {
		t.Errorf("%d segmented in software", n)
	}
}

// Without the right to a packet socket the error says which it is.
func TestPacketUnavailable(t *testing.T) {
	if noKernel != "" {
		t.Skip(noKernel)
	}
	for _, errno := range []syscall.Errno{unix.EPERM, unix.EAFNOSUPPORT} {
		if err := explainPacket(errno); !errors.Is(err, ErrUnavailable) || !errors.Is(err, errno) || !strings.Contains(err.Error(), "run ") {
			t.Errorf("%v", err)
		}
	}
}
