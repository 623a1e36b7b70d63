package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	pt "github.com/tunlb/tunlb/stack/packet/packettest"
)

// TestClassic: what another writer writes as pcap, in both units and byte orders.
func TestClassic(t *testing.T) {
	frame := pt.UDP(t, client, vip, pt.PayloadLen(20))[10:]
	for name, nano := range map[string]bool{"microseconds": false, "nanoseconds": true} {
		var b bytes.Buffer
		w := pcapgo.NewWriter(&b)
		at := begun.Truncate(time.Microsecond)
		if nano {
			w, at = pcapgo.NewWriterNanos(&b), begun
		}
		if err := w.WriteFileHeader(1500, layers.LinkTypeRaw); err != nil {
			t.Fatal(err)
		}
		for i, n := range []int{len(frame), 20} {
			ci := gopacket.CaptureInfo{Timestamp: at.Add(time.Duration(i) * time.Second), CaptureLength: n, Length: len(frame)}
			if err := w.WritePacket(ci, frame[:n]); err != nil {
				t.Fatal(err)
			}
		}
		for order, file := range map[string][]byte{"little": b.Bytes(), "big": bigEndian(b.Bytes())} {
			list := read(t, file)
			if len(list) != 2 {
				t.Fatalf("%s, %s: %d packets", name, order, len(list))
			}
			for i, p := range list {
				n := []int{len(frame), 20}[i]
				if p.Number != i+1 || p.Time != at.UnixNano()+int64(i)*1e9 || p.Link != LinkRaw || p.Length != len(frame) || !bytes.Equal(p.Data, frame[:n]) || p.Own {
					t.Errorf("%s, %s: %+v", name, order, p)
				}
			}
			if at := list[1].Offset; at != int64(24+16+len(frame)) {
				t.Errorf("%s, %s: the second packet is said to be at byte %d", name, order, at)
			}
		}
	}
}

// bigEndian turns the numbers of a pcap file round.
func bigEndian(b []byte) []byte {
	b = bytes.Clone(b)
	turn := func(sizes ...int) func(at int) {
		return func(at int) {
			for _, n := range sizes {
				slices.Reverse(b[at : at+n])
				at += n
			}
		}
	}
	turn(4, 2, 2, 4, 4, 4, 4)(0)
	for at := 24; at < len(b); {
		n := int(binary.LittleEndian.Uint32(b[at+8:]))
		turn(4, 4, 4, 4)(at)
		at += 16 + n
	}
	return b
}

// TestForeign: pcapng of another writer: no tunlb's, whatever it has for names and flags.
func TestForeign(t *testing.T) {
	var b bytes.Buffer
	w, err := pcapgo.NewNgWriterInterface(&b, pcapgo.NgInterface{Name: "tunlb0", LinkType: layers.LinkTypeEthernet, TimestampResolution: 6}, pcapgo.NgWriterOptions{
		SectionInfo: pcapgo.NgSectionInfo{Application: "Dumpcap 4.0, not of tunlb 1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	data := []byte("frame of no particular kind")
	in := pcapgo.NgEpbFlags{Direction: pcapgo.NgEpbFlagDirectionInbound}
	ci := gopacket.CaptureInfo{Timestamp: begun, CaptureLength: len(data), Length: len(data)}
	if err := errors.Join(w.WritePacketWithOptions(ci, data, pcapgo.NgPacketOptions{Flags: &in, Comments: []string{"one" + segmentWords + "7 bytes", "two"}}), w.Flush()); err != nil {
		t.Fatal(err)
	}
	list := read(t, b.Bytes())
	if len(list) != 1 {
		t.Fatalf("%d packets", len(list))
	}
	p := list[0]
	if p.Own || p.Port != "tunlb0" || p.Side != In || p.Segment != 0 || !strings.HasPrefix(p.Comment, "one") || p.Link != LinkEthernet || !bytes.Equal(p.Data, data) || p.Time/1000 != begun.UnixMicro() {
		t.Errorf("%+v", p)
	}
}

// block is a block of pcapng.
func block(order binary.AppendByteOrder, kind uint32, body []byte) []byte {
	body = append(body, make([]byte, -len(body)&3)...)
	n := uint32(len(body) + blockOverhead)
	return order.AppendUint32(append(order.AppendUint32(order.AppendUint32(nil, kind), n), body...), n)
}

func words(order binary.AppendByteOrder, list ...uint32) (b []byte) {
	for _, w := range list {
		b = order.AppendUint32(b, w)
	}
	return b
}

func section(order binary.AppendByteOrder) []byte {
	b := order.AppendUint16(order.AppendUint16(words(order, byteOrder), 1), 0)
	return block(order, blockSection, append(b, words(order, 1<<32-1, 1<<32-1)...))
}

// face is an interface whose times count in the unit, from the offset in seconds on.
func face(order binary.AppendByteOrder, resolution byte, offset uint64) []byte {
	b := words(order, 0, 0)
	order.(binary.ByteOrder).PutUint16(b, LinkRaw)
	b = append(order.AppendUint16(order.AppendUint16(b, ifTSResol), 1), resolution, 0, 0, 0)
	b = order.AppendUint64(order.AppendUint16(order.AppendUint16(b, 14), 8), offset)
	return block(order, blockInterface, words2(b, order))
}

func words2(b []byte, order binary.AppendByteOrder) []byte { return append(b, words(order, 0)...) }

// TestUnits: times in all units, in both byte orders, in all three kinds of packets.
func TestUnits(t *testing.T) {
	const seconds = 1_700_000_000
	for _, test := range []struct {
		resolution byte
		count      uint64
		offset     int64
		want       int64
	}{
		{6, seconds*1e6 + 5, 0, seconds*1e9 + 5000},
		{9, seconds*1e9 + 5, 0, seconds*1e9 + 5},
		{0, seconds, 0, seconds * 1e9},
		{3, 7, seconds, seconds*1e9 + 7e6},
		{12, 1_700_000_000_005, 0, 1_700_000_000},
		{0x80 | 1, seconds*2 + 1, 0, seconds*1e9 + 5e8},
		{0x80 | 20, seconds<<20 + 1<<18, -seconds, 25e7},
		{0x80, seconds, 0, seconds * 1e9},
		{0x80 | 50, 5<<50 + 1<<49, seconds - 5, seconds*1e9 + 5e8},
	} {
		for name, order := range map[string]binary.AppendByteOrder{"little": binary.LittleEndian, "big": binary.BigEndian} {
			high, low := uint32(test.count>>32), uint32(test.count)
			data := []byte{0x45, 2, 3, 4, 5}
			file := slices.Concat(section(order), face(order, test.resolution, uint64(test.offset)),
				block(order, 0x0bad, make([]byte, 100)),
				block(order, blockPacket, append(words(order, 0, high, low, 5, 6), data...)),
				block(order, blockPacketOld, append(words(order, 0, high, low, 5, 6), data...)),
				block(order, blockSimple, append(words(order, 5), data...)))
			list := read(t, file)
			if len(list) != 3 {
				t.Fatalf("%s: %d packets", name, len(list))
			}
			for i, p := range list {
				if p.Time != test.want || !bytes.Equal(p.Data, data) || p.Length != []int{6, 6, 5}[i] || p.Link != LinkRaw {
					t.Errorf("%s, resolution %#x, packet %d: %+v, want the time %d", name, test.resolution, i+1, p, test.want)
				}
			}
		}
	}
}

// TestBadFiles: an error says where and what to do.
func TestBadFiles(t *testing.T) {
	order := binary.LittleEndian
	good := slices.Concat(section(order), face(order, 9, 0), block(order, blockPacket, words(order, 0, 0, 1, 4, 4, 0x45)))
	after := func(more ...[]byte) []byte { return slices.Concat(append([][]byte{good}, more...)...) }
	classic := append(words(order, 0xa1b2c3d4, 0x00040002, 0, 0, 0, LinkRaw), words(order, 1, 2, 4, 4, 0x45)...)
	for _, test := range []struct {
		name string
		file []byte
		want string
	}{
		{"empty", nil, "x: too short to be a capture, want pcap or pcapng"},
		{"text", []byte("hello, world"), "x: it begins with 68656c6c: this is neither pcap nor pcapng, turn it with `editcap -F pcapng IN OUT`, if Wireshark can read it"},
		{"gzip", []byte{0x1f, 0x8b, 8, 0}, "x: it is compressed, unpack it with `gunzip`"},
		{"old", words(order, 0xa1b2cd34), "x: it is pcap of a kind"},
		{"head", words(order, 0xa1b2c3d4, 4), "x: the file ends in its head"},
		{"cut record", slices.Concat(classic, []byte{1, 2}), "x: packet 2 at byte 44: the file ends in the middle of it, the file is damaged there: keep what comes before with `editcap -r x OUT 1-1`"},
		{"cut data", slices.Concat(classic, words(order, 1, 2, 5, 5, 0)), "x: packet 2 at byte 44: the file ends in the middle"},
		{"long record", slices.Concat(classic, words(order, 1, 2, 1<<31, 1<<31)), "x: packet 2 at byte 44: its length is said to be 2147483648"},
		{"before", slices.Concat(section(order), words(order, 0, 0)), "x: packet 1 at byte 28: its block is said to be 0 bytes long, the file is damaged there, and nothing comes before"},
		{"no interface", slices.Concat(section(order), block(order, blockPacket, words(order, 0, 0, 1, 0, 0))), "packet 1 at byte 28: it is one of interface 0, which nobody has described"},
		{"interface", after(block(order, blockPacket, words(order, 7, 0, 1, 0, 0))), "packet 2 at byte 108: it is one of interface 7"},
		{"cut block", after(words(order, blockPacket, 32, 0)), "packet 2 at byte 108: the file ends in the middle"},
		{"huge block", after(words(order, blockPacket, 1<<31, 0)), "packet 2 at byte 108: its block is said to be 2147483648 bytes long, more than"},
		{"odd block", after(words(order, blockPacket, 33, 0)), "its block is said to be 33 bytes long"},
		{"lengths", after(words(order, blockPacket, 32, 0, 0, 1, 0, 0, 36)), "said to be 32 bytes long in front and 36 behind"},
		{"short packet", after(block(order, blockPacket, words(order, 0, 0))), "its block has 8 bytes only"},
		{"captured", after(block(order, blockPacket, words(order, 0, 0, 1, 5, 5, 0))), "its length is said to be 5 of 5 bytes, and its block has 4"},
		{"wire", after(block(order, blockPacket, words(order, 0, 0, 1, 0, 1<<31+1))), "of 2147483649 bytes"},
		{"time", after(block(order, blockPacket, words(order, 0, 1<<31, 1, 0, 0))), "packet 2 at byte 108: its time is before 1970 or after 2262, shift it with `editcap -t SECONDS IN OUT`"},
		{"order", append(words(order, blockSection, 28), make([]byte, 20)...), "a section has 00000000 where its byte order should be"},
		{"version", block(order, blockSection, words(order, byteOrder, 2, 0, 0)), "a version that tunlb does not know"},
		{"short section", block(order, blockSection, words(order, byteOrder)), "a section's head has 4 bytes only"},
		{"short interface", slices.Concat(section(order), block(order, blockInterface, words(order, 1))), "an interface's block has 4 bytes only"},
	} {
		_, err := drain(test.file)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", test.name, err, test.want)
		}
		var located *Error
		if !errors.As(err, &located) {
			t.Errorf("%s: %T is no *Error", test.name, err)
		}
	}
	if n, err := drain(good); n != 1 || err != nil {
		t.Errorf("the good file: %d packets, %v", n, err)
	}
	if n, err := drain(classic); n != 1 || err != nil {
		t.Errorf("the good pcap: %d packets, %v", n, err)
	}
	if _, err := NewReader(io.MultiReader(bytes.NewReader(good[:2]), broken{}), "x"); err == nil || !strings.Contains(err.Error(), "x: cable pulled") {
		t.Errorf("a broken disk: %v", err)
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("cable pulled") }

// drain reads a file to its end.
func drain(b []byte) (packets int, err error) {
	r, err := NewReader(bytes.NewReader(b), "x")
	for err == nil {
		var p *Packet
		if p, err = r.Next(); err == nil {
			if packets++; p.Number != packets || len(p.Data) > maxPacket || p.Length < len(p.Data) || p.Time < 0 {
				return packets, errors.New("a packet that cannot be")
			}
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return packets, err
}

// TestManyInterfaces: a file can't make the reader keep whatever it likes.
func TestManyInterfaces(t *testing.T) {
	order := binary.LittleEndian
	file := slices.Concat(section(order), bytes.Repeat(block(order, blockInterface, words(order, 1, 0)), maxInterfaces+1))
	if _, err := drain(file); err == nil || !strings.Contains(err.Error(), "more than 4096 interfaces") {
		t.Errorf("got %v", err)
	}
}

// FuzzReader: no file crashes the reader, has it run for ever, or take more memory than a few packets.
func FuzzReader(f *testing.F) {
	order := binary.LittleEndian
	f.Add(write(f, Options{Header: header()}, records(f)...))
	f.Add(slices.Concat(section(order), face(order, 9, 0), block(order, blockPacket, words(order, 0, 0, 1, 4, 4, 0x45))))
	f.Add(slices.Concat(section(binary.BigEndian), face(binary.BigEndian, 0x94, 1<<63), block(binary.BigEndian, blockSimple, words(binary.BigEndian, 4, 0x45))))
	f.Add(append(words(order, 0xa1b23c4d, 0x00040002, 0, 0, 0, LinkRaw), words(order, 1, 2, 4, 4, 0x45)...))
	f.Add(append(words(order, 0xa1b2c3d4, 0x00040002, 0, 0, 0, 1), words(order, 1<<32-1, 1<<32-1, 1<<18, 1<<31, 0)...))
	f.Add(slices.Concat(section(order), words(order, 0x0bad, 1<<32-4)))
	f.Add(slices.Concat(section(order), face(order, 255, 1), words(order, blockPacket, maxBlock, 0)))
	f.Fuzz(func(t *testing.T, b []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		packets, err := drain(b)
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; took > 16<<20+100*uint64(len(b)) {
			t.Errorf("%d bytes of a file took %d of memory", len(b), took)
		}
		if packets > len(b)/16 {
			t.Errorf("%d packets in %d bytes", packets, len(b))
		}
		var located *Error
		if err != nil && !errors.As(err, &located) {
			t.Errorf("%T is no *Error: %[1]v", err)
		}
	})
}
