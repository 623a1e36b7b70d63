package flow

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"unsafe"

	"github.com/tunlb/tunlb/stack/packet"
)

// The index is an extendible hash table: a directory of pages, addressed by the hash's highest bits.
// A full page is split in two by the next bit, so that the table grows a page (some 10 us) at a time,
// and never stalls for a rehash of all. Inside a page: linear probing, and deletion that shifts back
// (no tombstones: churn leaves no trace). Pages are never merged. Groups of eight in a cache line,
// compared without a branch, were a quarter slower.
//
// Each flow has two entries, the outer tuple's and that of its answers, inner.Reverse(). An entry is
// 8 bytes:
//
//	63           28 27       26    0
//	highest bits of direction ref
//	the hash
//
// 0 is an empty slot, which is why there is no ref 0. The hash is keyed by a random seed per table,
// so that nobody can choose tuples that collide; where all hashes are random, all pages fill alike.
type index struct {
	key   [8]uint64
	dir   []*page // 2^depth long; a page of lesser depth has several entries in a row
	depth uint8
	spare *page // scratch of split

	pages  int    // in use
	unused []page // the rest of the last piece of memory
}

// page is 24 KiB. With pages of 3071 slots 2^20, 2^22, ... flows (and a million, likewise) fill the index
// to two thirds, which is about where it is best.
type page struct {
	slots [pageSlots]entry // first, see slot
	count uint16
	depth uint8 // how many of the hash's highest bits all entries share
}

type entry uint64

const (
	pageSlots = 3071
	pageLimit = pageSlots * 7 / 8 // a page with more is split
	// pagesAtOnce are 6 MiB.
	pagesAtOnce = 256
	// maxDepth leaves the bits below to home.
	maxDepth = 16

	refBits            = 27
	refMask            = 1<<refBits - 1
	directionBit       = 1 << refBits
	whoMask      entry = refMask | directionBit
)

func newIndex() index {
	x := index{spare: new(page)}
	for i := range x.key {
		x.key[i] = rand.Uint64()
	}
	x.dir = []*page{x.newPage(0)}
	return x
}

func (x *index) newPage(depth uint8) *page {
	if len(x.unused) == 0 {
		x.unused = more[page](x.pages, pagesAtOnce)
	}
	p := &x.unused[0]
	x.unused = x.unused[1:]
	x.pages++
	p.depth = depth
	return p
}

// hash is the NH of UMAC (RFC 4418, 5.2.2) over words of 64 bits, folded as a product: for any two tuples
// it differs but for one of 2^64 keys. It takes a third of the time of maphash, which is made for more.
func (x *index) hash(tu *packet.Tuple) uint64 {
	const half = 8
	le := binary.LittleEndian
	h0, l0 := bits.Mul64(le.Uint64(tu.Src[:half])+x.key[0], le.Uint64(tu.Src[half:])+x.key[1])
	h1, l1 := bits.Mul64(le.Uint64(tu.Dst[:half])+x.key[2], le.Uint64(tu.Dst[half:])+x.key[3])
	rest := uint64(tu.SrcPort)<<32 | uint64(tu.DstPort)<<16 | uint64(tu.Proto)
	h2, l2 := bits.Mul64(rest+x.key[4], x.key[5])
	lo, c := bits.Add64(l0, l1, 0)
	hi, _ := bits.Add64(h0, h1, c)
	lo, c = bits.Add64(lo, l2, 0)
	hi, _ = bits.Add64(hi, h2, c)
	hi, lo = bits.Mul64(hi^x.key[6], lo^x.key[7])
	return hi ^ lo
}

// home is the slot where the search for a hash begins. It takes bits that an entry keeps and that
// page does not use.
func home(hash uint64) int {
	const n = 64 - maxDepth - refBits - 1
	return int(hash >> (refBits + 1) & (1<<n - 1) * pageSlots >> n)
}

// page returns the page of a hash.
func (x *index) page(hash uint64) *page { return x.dir[hash>>(64-x.depth)] }

// add enters a record that is known not to be there.
func (x *index) add(hash uint64, ref uint32, d Direction) {
	p := x.page(hash)
	for p.count >= pageLimit && p.depth < maxDepth {
		x.split(p, hash)
		p = x.page(hash)
	}
	p.add(entry(hash)&^whoMask | who(ref, d))
}

// slot is where slots[i] is. Of an array that is larger than a page of memory the compiler reads the first
// element before any other, to see that there is one: a cache line more for each look-up.
func (p *page) slot(i int) *entry {
	return (*entry)(unsafe.Add(unsafe.Pointer(p), uintptr(i)*unsafe.Sizeof(entry(0))))
}

// who is the part of an entry that is not its hash.
func who(ref uint32, d Direction) entry { return entry(d)<<refBits | entry(ref) }

func (p *page) add(e entry) {
	if p.count == pageSlots-1 {
		// Not before 2^27 entries, and the cap is far below.
		panic("flow: the index's hash is not random")
	}
	i := home(uint64(e))
	for p.slots[i] != 0 {
		i = next(i)
	}
	p.slots[i] = e
	p.count++
}

// delete removes the entry of a record, which must be there.
func (x *index) delete(hash uint64, ref uint32, d Direction) {
	p := x.page(hash)
	i := home(hash)
	for p.slots[i]&whoMask != who(ref, d) {
		i = next(i)
	}
	p.count--
	// Move back what the gap would hide: entries whose home is not behind the gap.
	for j := next(i); p.slots[j] != 0; j = next(j) {
		if h := home(uint64(p.slots[j])); distance(h, j) >= distance(i, j) {
			p.slots[i] = p.slots[j]
			i = j
		}
	}
	p.slots[i] = 0
}

// next is the slot behind i.
func next(i int) int {
	if i++; i < pageSlots {
		return i
	}
	return 0
}

// distance is how many slots lie between from and to, going up.
func distance(from, to int) int {
	if to >= from {
		return to - from
	}
	return to - from + pageSlots
}

// split halves the page of a hash by one more bit, doubling the directory if need be.
func (x *index) split(p *page, hash uint64) {
	if p.depth == x.depth {
		dir := make([]*page, 2*len(x.dir))
		for i := range dir {
			dir[i] = x.dir[i/2]
		}
		x.dir = dir
		x.depth++
	}
	old := x.spare
	*old = *p
	*p = page{depth: old.depth + 1}
	upper := x.newPage(old.depth + 1)
	bit := entry(1) << (63 - old.depth)
	for _, e := range old.slots {
		switch {
		case e == 0:
		case e&bit == 0:
			p.add(e)
		default:
			upper.add(e)
		}
	}
	// The page had this many entries in the directory; the upper half of them changes.
	entries := 1 << (x.depth - old.depth)
	first := int(hash>>(64-x.depth)) &^ (entries - 1)
	for i := first + entries/2; i < first+entries; i++ {
		x.dir[i] = upper
	}
}
