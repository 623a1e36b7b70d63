package port

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/stack/packet"
)

// Instructions of classic BPF: A is the accumulator, X the index, M the sixteen words of scratch memory.
const (
	loadByte   = unix.BPF_LD | unix.BPF_ABS | unix.BPF_B
	loadHalf   = unix.BPF_LD | unix.BPF_ABS | unix.BPF_H
	loadWord   = unix.BPF_LD | unix.BPF_ABS | unix.BPF_W
	loadByteX  = unix.BPF_LD | unix.BPF_IND | unix.BPF_B // at X + k
	loadHalfX  = unix.BPF_LD | unix.BPF_IND | unix.BPF_H
	loadWordX  = unix.BPF_LD | unix.BPF_IND | unix.BPF_W
	loadNumber = unix.BPF_LD | unix.BPF_IMM
	loadM      = unix.BPF_LD | unix.BPF_MEM
	storeM     = unix.BPF_ST
	setX       = unix.BPF_LDX | unix.BPF_IMM
	setXFromM  = unix.BPF_LDX | unix.BPF_MEM
	setXLength = unix.BPF_LDX | unix.BPF_MSH | unix.BPF_B // of the IPv4 header at k
	copyAtoX   = unix.BPF_MISC | unix.BPF_TAX
	copyXtoA   = unix.BPF_MISC | unix.BPF_TXA
	and        = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	or         = unix.BPF_ALU | unix.BPF_OR | unix.BPF_K
	add        = unix.BPF_ALU | unix.BPF_ADD | unix.BPF_K
	addX       = unix.BPF_ALU | unix.BPF_ADD | unix.BPF_X
	shiftLeft  = unix.BPF_ALU | unix.BPF_LSH | unix.BPF_K
	ifEqual    = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	ifAtLeast  = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	ifAnyBit   = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
	jumpTo     = unix.BPF_JMP | unix.BPF_JA
	end        = unix.BPF_RET | unix.BPF_K

	ancillary  = 1<<32 - 0x1000 // SKF_AD_OFF, and the following behind it (linux/filter.h)
	packetType = ancillary + 4  // SKF_AD_PKTTYPE
	tag        = ancillary + 44 // SKF_AD_VLAN_TAG
	isTagged   = ancillary + 48 // SKF_AD_VLAN_TAG_PRESENT
)

// assembler builds a program from its end to its beginning. All jumps of such a program go forward: so where one goes,
// and how far it is, is known when it is made. Code is written upwards, then: what is run first comes last.
type assembler struct {
	code []unix.SockFilter // the last instruction first
	// long has the latest long jump to a place. One may go everywhere, a condition 255 instructions at most.
	long map[label]label
}

// label is a place in the program: how many instructions there are from it to the end.
type label int

// newAssembler begins with the program's ends.
func newAssembler() (a *assembler, drop, accept label) {
	a = &assembler{long: make(map[label]label)}
	return a, a.put(end, 0), a.put(end, 1<<32-1)
}

func (a *assembler) here() label { return label(len(a.code)) }

// put puts an instruction in front, which goes on with the one that was first.
func (a *assembler) put(code uint16, k uint32) label {
	a.code = append(a.code, unix.SockFilter{Code: code, K: k})
	return a.here()
}

// to has what is put next go on at place.
func (a *assembler) to(place label) {
	if place != a.here() {
		a.put(jumpTo, uint32(a.here()-place))
	}
}

// branch goes on at yes or no.
func (a *assembler) branch(condition uint16, k uint32, yes, no label) label {
	if yes == no {
		return yes
	}
	yes, no = a.near(yes), a.near(no)
	a.code = append(a.code, unix.SockFilter{Code: condition, K: k, Jt: uint8(a.here() - yes), Jf: uint8(a.here() - no)})
	return a.here()
}

// near is place, or a jump to it where it is too far.
func (a *assembler) near(place label) label {
	const reach = 254 // one less than a condition has: the other way may put a jump between
	if a.here()-place <= reach {
		return place
	}
	if jump, ok := a.long[place]; ok && a.here()-jump <= reach {
		return jump
	}
	jump := a.put(jumpTo, uint32(a.here()-place))
	a.long[place] = jump
	return jump
}

// piece says where to go on from a number on, up to the next piece's.
type piece struct {
	from uint32
	to   label
}

// decide finds the piece that A is in by halving. The pieces are in order, and the first is from 0.
func (a *assembler) decide(pieces []piece) label {
	if len(pieces) == 1 {
		return pieces[0].to
	}
	mid := len(pieces) / 2
	high := a.decide(pieces[mid:])
	low := a.decide(pieces[:mid])
	return a.branch(ifAtLeast, pieces[mid].from, high, low)
}

// oneOf goes on at yes if A is one of numbers.
func (a *assembler) oneOf(numbers []uint32, yes, no label) label {
	for _, n := range numbers {
		no = a.branch(ifEqual, n, yes, no)
	}
	return no
}

// untagged drops the frames of VLANs: the kernel takes the tag out of what we read, and they would look like the
// untagged network's. With VLAN number 0, a mere priority, they are (IEEE 802.1Q, 6.9).
func (a *assembler) untagged(drop, next label) label {
	number := a.branch(ifEqual, 0, next, drop)
	a.to(number)
	a.put(and, 0xfff)
	number = a.put(loadHalf, tag)
	a.branch(ifEqual, 0, next, number)
	return a.put(loadByte, isTagged)
}

// program is the finished one, in the order in which it runs.
func (a *assembler) program() []unix.SockFilter {
	p := make([]unix.SockFilter, len(a.code))
	for i, instruction := range a.code {
		p[len(p)-1-i] = instruction
	}
	return p
}

// stationFilter takes what is for station and for groups; all if it is zero.
func stationFilter(station packet.MAC) []unix.SockFilter {
	a, drop, accept := newAssembler()
	next := accept
	if !station.IsZero() {
		a.branch(ifEqual, uint32(binary.BigEndian.Uint16(station[4:])), accept, drop)
		low := a.put(loadHalf, 4)
		a.branch(ifEqual, binary.BigEndian.Uint32(station[:]), low, drop)
		mac := a.put(loadWord, 0)
		a.branch(ifEqual, 1, accept, mac)
		a.put(and, 1)
		next = a.put(loadByte, 0) // the destination's first byte has the group bit
	}
	a.untagged(drop, next)
	return a.program()
}

// attachFilter replaces the socket's filter, if it has one, at once.
func attachFilter(fd int, program []unix.SockFilter) error {
	attached := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &attached); err != nil {
		return fmt.Errorf("attach a socket filter of %d instructions: %w", len(program), err)
	}
	return nil
}

// attachClaim attaches the most precise filter for the claim that the kernel takes.
func attachClaim(fd int, claim packet.Claim) error {
	for _, g := range grains {
		program := claimFilter(claim, g)
		if len(program) > unix.BPF_MAXINSNS {
			continue
		}
		err := attachFilter(fd, program)
		if !errors.Is(err, unix.ENOMEM) || g == grains[len(grains)-1] { // net.core.optmem_max: a coarser one may have room
			return err
		}
	}
	return nil // the last one is some instructions
}
