package packet

import (
	"errors"
	"fmt"
)

// Errors of Fragment, for callers that answer with an ICMP error instead.
var (
	ErrDontFragment = errors.New("packet must not be fragmented")
	ErrSmallMTU     = errors.New("mtu leaves no room for a fragment")
	ErrSuperPacket  = errors.New("super-packet must be segmented first")
)

// Fragment emits an IPv4 packet in pieces of at most mtu bytes (RFC 791 section 3.2), or as it is if it
// fits, with full checksums and a zero vnet header. It may complete a partial checksum in place and
// leaves frame alone otherwise. What emit gets is borrowed during the call. Fragment stops at emit's
// first error and returns it.
//
// IPv6 packets and those with DF that don't fit are ErrDontFragment.
func Fragment(link Link, frame []byte, mtu int, emit func(frame []byte) error) error {
	var v View
	if r := v.ParseOn(link, frame); r != None {
		return fmt.Errorf("fragment: %s", r)
	}
	if v.Vnet.GSOType != GSONone {
		return ErrSuperPacket
	}
	fits := v.PacketLen() <= mtu
	if !fits && v.DontFragment {
		return ErrDontFragment
	}
	ihl := v.L4 - v.L3
	room := (mtu - ihl) &^ 7
	if !fits && room < 8 {
		return ErrSmallMTU
	}
	Complete(&v)
	if fits {
		return emit(v.Frame)
	}
	data := v.Frame[v.L4:]
	scratch := make([]byte, 0, v.L4+room)
	for at := 0; at < len(data); at += room {
		end := min(at+room, len(data))
		b := append(append(scratch, v.Frame[:v.L4]...), data[at:end]...)
		v.finishFragment(b, v.FragOffset+at, v.FragMore || end < len(data))
		if err := emit(b); err != nil {
			return err
		}
	}
	return nil
}

func (v *View) finishFragment(b []byte, offset int, more bool) {
	clear(b[:VnetLen])
	ip := b[v.L3:]
	frag := uint16(offset / 8)
	if more {
		frag |= ip4MF
	}
	be.PutUint16(ip[ip4Frag:], frag)
	if offset > 0 {
		dropOptions(ip[ip4Min : v.L4-v.L3])
	}
	setLength(ip, false, len(ip))
}

// dropOptions replaces the options that are not to be copied into later fragments by no-ops. Parse has
// checked that they are well-formed.
func dropOptions(b []byte) {
	const copied, end, nop = 0x80, 0, 1
	for len(b) > 0 && b[0] != end {
		n := 1
		if b[0] != nop {
			n = int(b[1])
		}
		if b[0]&copied == 0 {
			for i := range n {
				b[i] = nop
			}
		}
		b = b[n:]
	}
}
