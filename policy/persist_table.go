package policy

import (
	"encoding/binary"
	"hash/maphash"
	"math/bits"
)

// templates are those of all services: an extendible hash table whose pages hold the templates themselves, one
// in a cache line. The directory is addressed by the hash's highest bits; a page that is full is split in two
// by the next bit, so that the table grows a page at a time. Pages are never merged. The hash is keyed at
// random, so that nobody can choose addresses that collide.
//
// Inside a page: groups of eight slots, tried one after the other from the hash's own on, and no tombstones. A
// group has its tags, a byte of the hash each, in a word elsewhere, so that a search seldom touches another
// template than the one that it is after. Memory is what it waits for: a processor that foresees where a search
// ends is at the next one meanwhile, and one that has to follow chains of templates is not.
type templates struct {
	registry *registry
	seeds    [5]uint64
	dir      []uint32 // 2^depth numbers of pages; a page of lesser depth has several in a row
	depth    uint8    // at least 1
	pages    []*templatePage
	tags     [][templateGroups]uint64 // by number of page and group
	fill     []templateFill           // by number of page; there is no page 0, so that ref 0 is none
	spare    uint32                   // a page that is empty, for split
	len, cap int
	epoch    uint32 // the last one given out
	sweeping bool   // away what became invalid, from the hash swept on
	swept    uint64
	wheel    templateWheel
}

// templatePage has no pointers: the garbage collector does not look into it.
type templatePage [templateSlots]template

// templateFill is how many templates a page has, and how many of the hash's highest bits they all share.
type templateFill struct {
	count uint16
	depth uint8
}

// With pages of 192 slots 2^20 templates, and a million, fill them to two thirds.
const (
	templateGroup  = 8
	templateGroups = 24
	templateSlots  = templateGroup * templateGroups
	templateLimit  = templateSlots * 7 / 8 // a page with more is split
	maxTemplates   = 1 << 24
	// maxTemplateDepth leaves the bits below to tagOf and homeOf.
	maxTemplateDepth = 24
)

// template is a cache line.
type template struct {
	templateKey
	server     uint32 // its ID; 0 is an empty slot's
	flows      uint32 // that live
	deadline   tick
	next, prev uint32 // refs of the others in its bucket of the wheel
	bucket     uint32
}

// templateKey is in words, and hashed and compared by the word: loads wider than the stores just before would
// wait for these to leave the store buffer, behind the cache misses of the templates before. That made a lookup
// half as long again.
type templateKey struct {
	client, vip words
	place       uint64 // epoch of the service, port and protocol
}

// words are an address.
type words struct{ high, low uint64 }

func (w words) bytes() (a [16]byte) {
	binary.BigEndian.PutUint64(a[:8], w.high)
	binary.BigEndian.PutUint64(a[8:], w.low)
	return a
}

func (k *templateKey) epoch() uint32 { return uint32(k.place >> 32) }
func (k *templateKey) port() uint16  { return uint16(k.place >> 16) }
func (k *templateKey) proto() uint8  { return uint8(k.place) }

func (k *templateKey) is(other *templateKey) bool {
	return k.client.low == other.client.low && k.client.high == other.client.high &&
		k.vip.low == other.vip.low && k.vip.high == other.vip.high && k.place == other.place
}

func newTemplates(r *registry) *templates {
	t := &templates{registry: r, dir: []uint32{1, 1}, depth: 1, spare: 2}
	for range 3 {
		t.addPage()
	}
	seed := maphash.MakeSeed()
	for i := range t.seeds {
		t.seeds[i] = maphash.Comparable(seed, i)
	}
	t.limit(0)
	return t
}

func (t *templates) addPage() (number uint32) {
	t.pages, t.tags, t.fill = append(t.pages, new(templatePage)), append(t.tags, [templateGroups]uint64{}), append(t.fill, templateFill{})
	return uint32(len(t.pages) - 1)
}

func (t *templates) limit(n int) {
	if n <= 0 {
		n = DefaultTemplates
	}
	t.cap = min(n, maxTemplates)
	for t.len > t.cap {
		t.evict(t.wheel.at)
	}
}

func (t *templates) nextEpoch() uint32 {
	if t.epoch++; t.epoch == 0 {
		t.epoch = 1
	}
	return t.epoch
}

// valid says whether the service of a template still knows it.
func (t *templates) valid(e *template) bool {
	return t.registry.servers[e.server].Service.epoch == e.epoch()
}

// hash is made of folded products of the key's words and secret numbers, as maps do on machines without AES.
func (t *templates) hash(key *templateKey) uint64 {
	s := &t.seeds
	h := foldedProduct(key.client.high^s[0], key.client.low^s[1])
	h ^= foldedProduct(key.vip.high^s[2], key.vip.low^s[3])
	return foldedProduct(h^s[4], key.place^s[1])
}

func foldedProduct(a, b uint64) uint64 {
	high, low := bits.Mul64(a, b)
	return high ^ low
}

// homeOf is the group where the search for a hash begins.
func homeOf(hash uint64) uint32 { return uint32(hash & 0xffffffff * templateGroups >> 32) }

// tagOf is a hash's byte in the tags of a group. 0 is an empty slot's.
func tagOf(hash uint64) uint64 { return hash>>32&0x7f | 0x80 }

const everyByte = 0x0101010101010101

// matching has the highest bit set of the bytes of a group's tags that equal a tag, and of few others.
func matching(tags, tag uint64) uint64 {
	differ := tags ^ tag*everyByte
	return (differ - everyByte) &^ differ & (everyByte << 7)
}

// vacant has the highest bit set of the bytes of empty slots.
func vacant(tags uint64) uint64 { return ^tags & (everyByte << 7) }

// firstByte is the number of the first byte whose highest bit is set.
func firstByte(set uint64) uint32 { return uint32(bits.TrailingZeros64(set)) / 8 }

func groupAfter(g uint32) uint32 {
	if g++; g < templateGroups {
		return g
	}
	return 0
}

// groupsFrom is how many groups lie between from and to, going up.
func groupsFrom(from, to uint32) uint32 {
	if to >= from {
		return to - from
	}
	return to + templateGroups - from
}

func (t *templates) pageOf(hash uint64) uint32 { return t.dir[hash>>(-t.depth&63)] }

func (t *templates) at(ref uint32) *template { return &t.pages[ref/templateSlots][ref%templateSlots] }

func (t *templates) groupAt(ref uint32) (tags *uint64, shift uint32) {
	return &t.tags[ref/templateSlots][ref/templateGroup%templateGroups], ref % templateGroup * 8
}

// find returns the template of a key and its ref, nil if there is none.
func (t *templates) find(key *templateKey, hash uint64) (*template, uint32) {
	number := t.pageOf(hash)
	page, tags := t.pages[number], &t.tags[number]
	for g := homeOf(hash); ; g = groupAfter(g) {
		for found := matching(tags[g], tagOf(hash)); found != 0; found &= found - 1 {
			slot := g*templateGroup + firstByte(found)
			if e := &page[slot]; e.is(key) {
				return e, number*templateSlots + slot
			}
		}
		if vacant(tags[g]) != 0 {
			return nil, 0
		}
	}
}

// of finds a client's template.
func (t *templates) of(p *persistence, c *Client) *template {
	var key templateKey
	p.key(&key, c)
	e, _ := t.find(&key, t.hash(&key))
	return e
}

// insert adds a template whose key has none.
func (t *templates) insert(key *templateKey, hash uint64, server *Server, now, deadline tick) {
	if t.len >= t.cap {
		t.evict(now)
	}
	if t.len == 0 {
		t.wheel.start(now)
	}
	for t.fill[t.pageOf(hash)].count >= templateLimit && t.fill[t.pageOf(hash)].depth < maxTemplateDepth {
		t.split(hash)
	}
	ref := t.place(t.pageOf(hash), hash)
	e := t.at(ref)
	*e = template{templateKey: *key, server: server.ID, deadline: deadline}
	t.link(e, ref, t.wheel.bucketFor(deadline))
	t.len++
	server.Hold()
	if server.epoch != key.epoch() {
		server.epoch, server.persistent = key.epoch(), 0
	}
	server.persistent++
}

// place takes an empty slot of a page.
func (t *templates) place(number uint32, hash uint64) (ref uint32) {
	if t.fill[number].count == templateSlots-1 {
		panic("policy: hashes of templates are not random") // long after maxTemplates
	}
	t.fill[number].count++
	g, tags := homeOf(hash), &t.tags[number]
	for vacant(tags[g]) == 0 {
		g = groupAfter(g)
	}
	i := firstByte(vacant(tags[g]))
	tags[g] |= tagOf(hash) << (8 * i)
	return number*templateSlots + g*templateGroup + i
}

// remove forgets a template. Others of its page may change their refs.
func (t *templates) remove(ref uint32) {
	e := t.at(ref)
	t.unlink(e)
	server, epoch := t.registry.servers[e.server], e.epoch()
	t.fill[ref/templateSlots].count--
	t.len--
	// A gap in a full group hides those that did not find room there: the first of them moves in, and leaves
	// a gap of its own.
	for {
		tags, shift := t.groupAt(ref)
		from, tag := uint32(0), uint64(0)
		if vacant(*tags) == 0 {
			from, tag = t.overflowed(ref/templateSlots, ref/templateGroup%templateGroups)
		}
		*tags = *tags&^(0xff<<shift) | tag<<shift
		if from == 0 {
			break
		}
		t.move(from, ref)
		ref = from
	}
	*t.at(ref) = template{}
	if server.epoch == epoch {
		server.persistent--
	}
	server.Unhold()
}

// overflowed finds a template behind a full group that would rather be in it, and its tag; 0 if there is none.
func (t *templates) overflowed(number, g uint32) (ref uint32, tag uint64) {
	for h := groupAfter(g); ; h = groupAfter(h) {
		tags := t.tags[number][h]
		for set := ^vacant(tags) & (everyByte << 7); set != 0; set &= set - 1 {
			ref := number*templateSlots + h*templateGroup + firstByte(set)
			hash := t.hash(&t.at(ref).templateKey)
			if groupsFrom(homeOf(hash), h) >= groupsFrom(g, h) {
				return ref, tagOf(hash)
			}
		}
		if vacant(tags) != 0 {
			return 0, 0
		}
	}
}

// move copies a template to another slot and tells its neighbours in the wheel.
func (t *templates) move(from, to uint32) {
	e := t.at(to)
	*e = *t.at(from)
	t.relink(e, to)
}

// split halves the page of a hash by one more bit, doubling the directory if need be.
func (t *templates) split(hash uint64) {
	number := t.pageOf(hash)
	lower, upper := t.spare, t.addPage()
	old, depth := t.pages[number], t.fill[number].depth
	if depth == t.depth {
		dir := make([]uint32, 2*len(t.dir))
		for i := range dir {
			dir[i] = t.dir[i/2]
		}
		t.dir = dir
		t.depth++
	}
	t.fill[lower].depth, t.fill[upper].depth = depth+1, depth+1
	for i := range old {
		e := &old[i]
		if e.server == 0 {
			continue
		}
		h, to := t.hash(&e.templateKey), lower
		if h>>(63-depth)&1 != 0 {
			to = upper
		}
		t.move(number*templateSlots+uint32(i), t.place(to, h))
	}
	// The page had this many places in the directory.
	places := 1 << (t.depth - depth)
	first := int(hash>>(64-t.depth)) &^ (places - 1)
	for i := range places {
		t.dir[first+i] = lower
		if i >= places/2 {
			t.dir[first+i] = upper
		}
	}
	*old, t.tags[number], t.fill[number], t.spare = templatePage{}, [templateGroups]uint64{}, templateFill{}, number
}

// after is the first hash behind the page of a hash, 0 behind the last page. A page's templates go to pages
// side by side when it is split: what is behind a hash stays behind it.
func (t *templates) after(hash uint64) uint64 {
	depth := t.fill[t.pageOf(hash)].depth
	if depth == 0 {
		return 0
	}
	width := uint64(1) << (64 - depth)
	return hash&^(width-1) + width
}

// walk visits the templates of whole pages, until there were n. The cursor is a hash.
func (t *templates) walk(cursor uint64, n int, visit func(*template)) (next uint64, more bool) {
	for n > 0 {
		number := t.pageOf(cursor)
		page := t.pages[number]
		for i := range page {
			if page[i].server != 0 {
				visit(&page[i])
			}
		}
		n -= int(t.fill[number].count) + 1
		if cursor = t.after(cursor); cursor == 0 {
			return 0, false
		}
	}
	return cursor, true
}

// startSweep begins to look for templates that have become invalid.
func (t *templates) startSweep() { t.sweeping, t.swept = t.len > 0, 0 }

// sweep removes what is invalid, page by page. It is false if the budget was spent before.
func (t *templates) sweep(budget *int) bool {
	for t.sweeping {
		if *budget <= 0 {
			return false
		}
		number := t.pageOf(t.swept)
		*budget -= int(t.fill[number].count) + 1
		for i := uint32(0); i < templateSlots; {
			if e := &t.pages[number][i]; e.server != 0 && !t.valid(e) {
				t.remove(number*templateSlots + i) // another one may be in its slot now
				continue
			}
			i++
		}
		t.swept = t.after(t.swept)
		t.sweeping = t.swept != 0
	}
	return true
}
