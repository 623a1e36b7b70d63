package port

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/stack/packet"
)

// bridge makes one that is up.
func (s *space) bridge(t *testing.T, name string) {
	t.Helper()
	must(t, s.nl.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}))
	s.setUp(t, name)
}

func (s *space) enslave(t *testing.T, name, bridge string) {
	t.Helper()
	must(t, s.nl.LinkSetMaster(s.link(t, name), s.link(t, bridge)))
}

func TestNewTAP(t *testing.T) {
	s := newSpace(t)
	s.bridge(t, "br0")
	mac := packet.MAC{0xfe, 0, 0x5e, 0x10, 0, 1}
	p := s.openTAP(t, TAPConfig{Name: "lb%d", MTU: 9000, TxQueueLen: 1234, MAC: mac, Bridge: "br0"})
	if p.Name() != "lb0" || p.MTU() != 9000 {
		t.Errorf("name %s, MTU %d", p.Name(), p.MTU())
	}
	a := s.link(t, "lb0").Attrs()
	if a.MTU != 9000 || a.TxQLen != 1234 || a.Flags&net.FlagUp != 0 {
		t.Errorf("MTU %d, tx queue length %d, flags %s", a.MTU, a.TxQLen, a.Flags)
	}
	if a.HardwareAddr.String() != mac.String() || a.MasterIndex != s.link(t, "br0").Attrs().Index {
		t.Errorf("MAC %s, master %d", a.HardwareAddr, a.MasterIndex)
	}
	if _, err := net.InterfaceByName("lb0"); err == nil {
		t.Error("the device is in our own namespace")
	}
	must(t, p.Close())
	if _, err := s.nl.LinkByName("lb0"); !errors.As(err, &netlink.LinkNotFoundError{}) {
		t.Errorf("after Close: %v", err)
	}
}

// A port of a bridge gets all multicast, as one does behind which a multicast router is.
func TestTAPGetsAllMulticast(t *testing.T) {
	s := newSpace(t)
	s.bridge(t, "br0")
	s.veth(t, "eth0", s, "p0")
	s.enslave(t, "p0", "br0")
	p := s.openTAP(t, TAPConfig{Bridge: "br0"})
	got := s.multicastRouter(t)
	if got[s.link(t, p.Name()).Attrs().Index] != 2 || got[s.link(t, "p0").Attrs().Index] != 1 {
		t.Errorf("multicast_router by index: %v, want 2 for %s and 1, the default, for p0", got, p.Name())
	}
}

// multicastRouter asks for that setting of the namespace's bridge ports.
func (s *space) multicastRouter(t *testing.T) map[int]byte {
	t.Helper()
	values := map[int]byte{}
	s.do(t, func() error {
		req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
		req.AddData(nl.NewIfInfomsg(unix.AF_BRIDGE))
		dump, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
		if err != nil {
			return err
		}
		for _, m := range dump {
			info := nl.DeserializeIfInfomsg(m)
			attrs, err := nl.ParseRouteAttrAsMap(m[info.Len():])
			if err != nil {
				return err
			}
			port, err := nl.ParseRouteAttrAsMap(attrs[unix.IFLA_PROTINFO|unix.NLA_F_NESTED].Value)
			if err != nil {
				return err
			}
			if v := port[unix.IFLA_BRPORT_MULTICAST_ROUTER].Value; len(v) > 0 {
				values[int(info.Index)] = v[0]
			}
		}
		return nil
	})
	return values
}

func TestTAPHasRandomMAC(t *testing.T) {
	s := newSpace(t)
	a, b := s.openTAP(t, TAPConfig{}), s.openTAP(t, TAPConfig{})
	if x, y := s.link(t, a.Name()).Attrs().HardwareAddr, s.link(t, b.Name()).Attrs().HardwareAddr; x.String() == y.String() {
		t.Errorf("two devices have %s", x)
	}
}

// A persistent device is somebody else's and stays.
func TestTakesOverPersistentTAP(t *testing.T) {
	s := newSpace(t)
	link := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "kept0"}, Mode: netlink.TUNTAP_MODE_TAP}
	if err := inNetNS(s.path, func() error { return netlink.LinkAdd(link) }); err != nil {
		t.Skipf("no persistent device: %v", err)
	}
	for range 2 {
		must(t, s.openTAP(t, TAPConfig{Name: "kept0"}).Close())
	}
	s.link(t, "kept0")
	if _, err := OpenTUN(TUNConfig{Name: "kept0", NetNS: s.path}); !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "no plain TUN") {
		t.Errorf("as a TUN: %v", err)
	}
}

func TestFailedOpenTAPLeaksNothing(t *testing.T) {
	s := newSpace(t)
	s.openTAP(t, TAPConfig{Name: "taken"})
	s.bridge(t, "br0")
	must(t, s.nl.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "downbr"}}))
	before := countLinks(t, s)
	for _, tt := range []struct {
		cfg  TAPConfig
		want error
		says string
	}{
		{TAPConfig{Name: "taken"}, unix.EBUSY, "another process holds this device"},
		{TAPConfig{Name: "lo"}, unix.EINVAL, "no plain TAP"},
		{TAPConfig{Name: "sixteen-bytes-aa"}, unix.EINVAL, ""},
		{TAPConfig{MTU: 10}, unix.EINVAL, "set MTU 10"},
		{TAPConfig{MTU: 65522}, unix.EINVAL, "68 to 65521 will do"},
		{TAPConfig{TxQueueLen: -1}, unix.EINVAL, ""},
		{TAPConfig{Offload: 9}, nil, "want auto, tcp or off"},
		{TAPConfig{MAC: packet.Broadcast}, unix.EADDRNOTAVAIL, "it has to be a station's"},
		{TAPConfig{Bridge: "br9"}, unix.ENODEV, "run `ip link add br9 type bridge && ip link set br9 up`"},
		{TAPConfig{Bridge: "lo"}, nil, "it is no bridge: "},
		{TAPConfig{Bridge: "taken"}, nil, "it is no bridge: "},
		{TAPConfig{Bridge: "downbr"}, ErrDown, "run `ip link set downbr up`"},
		{TAPConfig{Bridge: "sixteen-bytes-aa"}, unix.EINVAL, ""},
		{TAPConfig{NetNS: "/nonexistent/netns"}, unix.ENOENT, ""},
	} {
		cfg := tt.cfg
		if cfg.NetNS == "" {
			cfg.NetNS = s.path
		}
		failsCleanly(t, func() (Port, error) { return OpenTAP(cfg) }, tt.want, tt.says)
	}
	if after := countLinks(t, s); after != before {
		t.Errorf("%d links, before %d", after, before)
	}
}

func countLinks(t *testing.T, s *space) int {
	t.Helper()
	links, err := s.nl.LinkList()
	must(t, err)
	return len(links)
}

// failsCleanly opens some times, and wants the error and nothing left over.
func failsCleanly(t *testing.T, open func() (Port, error), want error, says string) {
	t.Helper()
	ignore := goleak.IgnoreCurrent()
	before := countDescriptors(t)
	for range 5 {
		p, err := open()
		if err == nil {
			p.Close()
			t.Fatalf("no error, want %v, %q", want, says)
		}
		if want != nil && !errors.Is(err, want) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v\nwant %v, %q", err, want, says)
		}
	}
	goleak.VerifyNone(t, ignore)
	// Fewer are an earlier port's: wireguard closes a pipe when Close is long over.
	if after := countDescriptors(t); after > before {
		t.Errorf("%q: %d descriptors, before %d", says, after, before)
	}
}

func TestEthernetOpenCloseLeaksNothing(t *testing.T) {
	s := newSpace(t)
	s.veth(t, "eth0", s, "p0")
	ignore := goleak.IgnoreCurrent()
	before := countDescriptors(t)
	for range 20 {
		for _, o := range offloads {
			must(t, s.openTAP(t, TAPConfig{Offload: o}).Close())
		}
		must(t, s.openPacket(t, PacketConfig{Interface: "p0"}).Close())
	}
	goleak.VerifyNone(t, ignore)
	if after := countDescriptors(t); after > before {
		t.Errorf("%d descriptors, before %d", after, before)
	}
}

// A TAP's frames keep the tags of their VLANs.
func TestTAPKeepsVLANTags(t *testing.T) {
	s := tapSegment(t, OffloadAuto)
	s.host.raw(t, s.device, playedMAC, "v", 7)
	buf := make([]byte, packet.BufferSize)
	for {
		n, err := s.Read(buf)
		must(t, err)
		if h, ok := packet.DecodeEthernet(buf[:n]); ok && h.Type == 0x8100 {
			if want := "\x00\x07\x88\xb5v"; string(buf[packet.VnetLen+packet.EthernetLen:][:5]) != want {
				t.Errorf("behind the type: % x", buf[packet.VnetLen+packet.EthernetLen:n])
			}
			return
		}
	}
}
