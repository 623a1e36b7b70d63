package neigh

import (
	"bytes"
	"testing"
	"time"

	"github.com/tunlb/tunlb/stack/packet"
)

// seeds are all frames of the conversations, those that Linux sends, and hidden ones.
func seeds(f *testing.F) (out [][]byte) {
	for _, c := range conversations(f) {
		if c.in != nil {
			out = append(out, c.in)
		}
	}
	for _, k := range kernelFrames {
		out = append(out, unhex(f, k.frame))
	}
	return append(out, nil, behind(frame6(), 60, 58, 0, 1, 4, 0, 0, 0, 0), behind(frame6(), 44, 58, 0, 0, 1, 0, 0, 0, 1),
		behind(frame6(), 51, append([]byte{58, 4}, make([]byte, 22)...)...), tag(frame4(), 0x8100, 0), tag(tag(frame6(), 0x8100, 0), 0x88a8, 0))
}

// FuzzParse: any bytes. What parses has a sender that can be one station's, and the same bytes come out
// when its sender is written anew.
func FuzzParse(f *testing.F) {
	for _, s := range seeds(f) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		frame = bytes.Clone(frame)
		is := Is(frame)
		var m Message
		if r := m.Parse(frame); r != packet.None && r != packet.BadARP && r != packet.BadND {
			t.Fatal(r)
		}
		resum(frame) // or the fuzzer would have to find the checksum
		if r := m.Parse(frame); r != packet.None {
			return
		}
		if !is {
			t.Fatalf("parses, but is not ours: %+v", m)
		}
		addr, mac, ok := m.Claim()
		if ok != (m.Form != Probe) || ok && (!station(mac) || !unicast(addr) || is4(addr) == m.Is6) || !station(m.EtherSrc) {
			t.Fatalf("%+v", m)
		}
		if m.Target[0] == 0xff || m.Is6 && is4(m.Target) {
			t.Fatalf("%+v", m)
		}
		again := bytes.Clone(frame)
		if !m.Is6 {
			setSenderARP(again, m.Sender)
		} else {
			setSenderND(again, m.Sender)
			copy(again[:packet.VnetLen], frame) // a partial checksum has been completed
			if frame[0]&packet.FlagNeedsCsum != 0 || be.Uint16(frame[ndSum:]) == 0xffff {
				copy(again[ndSum:ndFlags], frame[ndSum:])
			}
		}
		if !bytes.Equal(again, frame) {
			t.Fatalf("%x, again\n%x", frame, again)
		}
	})
}

// FuzzHandle: any frame, from any side, at a table with servers and neighbours.
func FuzzHandle(f *testing.F) {
	for i, s := range seeds(f) {
		f.Add(s, uint8(i), uint16(i*100))
	}
	f.Fuzz(func(t *testing.T, frame []byte, side uint8, wait uint16) {
		at := Side(side % 3)
		table, now := quiet(t, config(at != Shared))
		tick(table, &now, 2*time.Second)
		for _, fam := range families {
			handle(t, table, replies(rs2MAC, fam.rs2, tunlb, fam.own.Addr()), at, now)
			table.Lookup(fam.other.As16(), now)
		}
		drain(table)
		tick(table, &now, time.Duration(wait)*time.Millisecond)
		if !Is(frame) {
			return
		}
		buf := resum(bytes.Clone(frame))
		before := bytes.Clone(buf)
		var m Message
		if m.Parse(buf) != packet.None {
			return
		}
		open := map[[16]byte]bool{} // who is being asked for, so that anybody's answer is believed
		for addr, e := range table.entries {
			open[addr] = e.state == Incomplete || e.state == Failed || e.state == Probing && e.broadcast
		}
		v := table.Handle(&m, buf, 3, at, now)
		checkTable(t, table)
		if v.Rewritten && !v.Forward || v.Forward && v.Reason != packet.None || v.Forward && at == Shared {
			t.Fatalf("%+v", v)
		}
		if !v.Rewritten && !bytes.Equal(buf, before) {
			t.Fatalf("changed in secret: %x, was\n%x", buf, before)
		}
		for _, fam := range families {
			if mac, state := table.Lookup(fam.rs1.As16(), now); mac != rs1MAC || state != Static {
				t.Fatalf("rs1 is %v at %v", state, mac)
			}
			if e := table.entries[fam.rs2.As16()]; e.mac != rs2MAC && !open[e.addr] {
				t.Fatalf("rs2 is %v at %v", e.state, e.mac)
			}
			for _, a := range [][16]byte{fam.vip.As16(), fam.vip2.As16(), fam.own.Addr().As16()} {
				if _, state := table.Lookup(a, now); state != Failed {
					t.Fatalf("%v is somebody's", packet.Addr(a))
				}
			}
		}
		if v.Forward {
			var out Message
			if !Is(buf) || out.Parse(buf) != packet.None {
				t.Fatalf("what is forwarded does not parse: %x", buf)
			}
			addr, _, ok := out.Claim()
			if l := table.local[addr]; ok && l != nil {
				t.Fatalf("forwarded: %x claims %v", buf, packet.Addr(addr))
			}
			if l := table.local[out.Target]; l != nil && out.Solicits() {
				t.Fatalf("forwarded: %x asks for %v", buf, packet.Addr(out.Target))
			}
		}
		for _, frame := range drain(table) {
			out := parse(t, frame.Bytes())
			if out.EtherSrc != tunlb || out.Form == Request && table.local[out.Sender].vip {
				t.Fatalf("sent %+v", out)
			}
		}
	})
}
