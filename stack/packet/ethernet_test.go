package packet_test

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
)

var (
	macA = packet.MAC{2, 0, 0, 0, 0, 0xa}
	macB = packet.MAC{2, 0, 0, 0, 0, 0xb}
)

var bothEnds = []struct {
	name     string
	src, dst netip.AddrPort
}{{"v4", client4, vip4}, {"v6", client6, vip6}}

// ether puts a frame of an IP port onto Ethernet.
func ether(frame []byte) []byte { return packet.AppendEthernet(nil, frame, macA, macB) }

// What leaves an Ethernet frame for an IP port and comes back is the same, byte for byte.
func TestEthernetThereAndBack(t *testing.T) {
	for _, ends := range bothEnds {
		for name, frame := range map[string][]byte{
			"plain":   pt.TCP(t, ends.src, ends.dst, pt.Payload([]byte("abc"))),
			"partial": pt.TCP(t, ends.src, ends.dst, pt.Payload(make([]byte, 700)), pt.PartialChecksum()),
			"super":   pt.TCP(t, ends.src, ends.dst, pt.Payload(make([]byte, 9000)), pt.GSO(1400)),
		} {
			t.Run(ends.name+"/"+name, func(t *testing.T) {
				l2 := ether(frame)
				var ip, eth packet.View
				if r := ip.Parse(bytes.Clone(frame)); r != packet.None {
					t.Fatal(r)
				}
				if r := eth.ParseEthernet(l2); r != packet.None {
					t.Fatal(r)
				}
				if eth.Tuple != ip.Tuple || eth.Segments() != ip.Segments() || eth.SegmentLen() != ip.SegmentLen() || eth.PacketLen() != ip.PacketLen() {
					t.Errorf("%+v, want %+v", eth, ip)
				}
				h, ok := packet.DecodeEthernet(l2)
				if want := (packet.Ethernet{Dst: macA, Src: macB, Type: packet.EtherTypeOf(ip.Is6)}); !ok || h != want {
					t.Errorf("header %+v, want %+v", h, want)
				}
				if back := packet.StripEthernet(l2); !bytes.Equal(back, frame) {
					t.Errorf("back came\n%x, want\n%x", back, frame)
				}
			})
		}
	}
}

// A super-packet is cut behind its Ethernet header, which every piece gets.
func TestSegmentEthernet(t *testing.T) {
	for _, ends := range bothEnds {
		super := pt.TCP(t, ends.src, ends.dst, pt.Payload(make([]byte, 4000)), pt.GSO(1400))
		var want [][]byte
		if err := packet.Segment(packet.LinkIP, super, func(b []byte) error {
			want = append(want, ether(b))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		got := collect(t, func(emit func([]byte) error) error { return packet.Segment(packet.LinkEthernet, ether(super), emit) })
		if len(got) != 3 || len(want) != 3 {
			t.Fatalf("%d and %d segments, want 3", len(got), len(want))
		}
		for i := range got {
			if !bytes.Equal(got[i], want[i]) {
				t.Errorf("segment %d:\n%x, want\n%x", i, got[i], want[i])
			}
		}
	}
}

// An ICMP error on Ethernet goes back to the station that the packet came from.
func TestErrorOnEthernet(t *testing.T) {
	for _, ends := range bothEnds {
		frame := pt.UDP(t, ends.src, ends.dst)
		var ip, eth packet.View
		if ip.Parse(bytes.Clone(frame)) != packet.None || eth.ParseEthernet(ether(frame)) != packet.None {
			t.Fatal("does not parse")
		}
		from := ip.Tuple.Dst
		want := packet.AppendEthernet(nil, packet.AppendError(nil, &ip, packet.PortUnreachable, from, 0), macB, macA)
		if got := packet.AppendError(nil, &eth, packet.PortUnreachable, from, 0); !bytes.Equal(got, want) {
			t.Errorf("%x, want\n%x", got, want)
		}
	}
}

func TestEthernetRefused(t *testing.T) {
	var v packet.View
	for _, ends := range bothEnds {
		frame := ether(pt.UDP(t, ends.src, ends.dst))
		for n := range len(frame) {
			if v.ParseEthernet(frame[:n:n]) == packet.None {
				t.Fatalf("%d of %d bytes parse", n, len(frame))
			}
		}
		frame[packet.VnetLen+12], frame[packet.VnetLen+13] = 0x81, 0 // a VLAN
		if r := v.ParseEthernet(frame); r != packet.BadVersion {
			t.Errorf("another type: %v", r)
		}
	}
}

func TestMAC(t *testing.T) {
	m, err := packet.ParseMAC("02:00:5e:10:00:01")
	if err != nil || m.String() != "02:00:5e:10:00:01" || m.IsGroup() || m.IsZero() || m.IsLinkControl() {
		t.Error(m, err)
	}
	if !packet.Broadcast.IsGroup() || packet.Broadcast.IsLinkControl() || !(packet.MAC{}).IsZero() {
		t.Error("broadcast, zero")
	}
	if (packet.MAC{1, 0x80, 0xc2}).IsLinkControl() {
		t.Error("spanning tree goes through who takes no part in it")
	}
	if lldp := (packet.MAC{1, 0x80, 0xc2, 0, 0, 14}); !lldp.IsLinkControl() || !lldp.IsGroup() {
		t.Error("LLDP's group is the link's")
	}
	for _, bad := range []string{"", "02:00", "02:00:5e:10:00:01:02:03", "x"} {
		if _, err := packet.ParseMAC(bad); err == nil {
			t.Errorf("%q parses", bad)
		}
	}
}
