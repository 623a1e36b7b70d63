package keep

import (
	"fmt"
	"hash/crc64"
	"math"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Memory is one such file. Its methods are safe for concurrent use, but for SetWords, Slab and Close, which are called by one
// at a time. Whoever has made it closes it; the file lives as long as any descriptor of it.
//
// Layout, in the machine's byte order:
//
//	0                   header
//	4096                words, one place
//	4096+MaxWords       words, the other place
//	4096+2*MaxWords     slabs, SlabSize each
type Memory struct {
	fd     int
	page   []byte // the header's
	header *header
}

// header says which words are valid. A process that is killed leaves the old words or the new ones. What comes before format is alike in
// all formats.
type header struct {
	magic  [8]byte
	tries  uint64 // see Try
	format uint64 // of the records
	// words is the place (its lowest bit) and how often they were replaced (the rest); 0 is never.
	words  uint64
	length [2]uint64 // by place
	sum    [2]uint64 // CRC-64 (ECMA), likewise
}

var magic = [8]byte{'t', 'u', 'n', 'l', 'b', ' ', '2', '\n'}

const (
	pageSize   = 4096
	slabsStart = pageSize + 2*MaxWords
)

// seals: the file grows, but nobody can take away what is mapped; whoever touched it then would die (SIGBUS).
const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL

// Create makes an empty memory for records of a format. Its maker's is the first Try.
func Create(format uint64) (*Memory, error) {
	fd, err := unix.MemfdCreate("tunlb", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("%w: memfd_create: %w", ErrUnavailable, err)
	}
	err = unix.Ftruncate(fd, slabsStart) // a hole, but for what is written
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("memory to keep: %w", err)
	}
	m, err := mapped(fd)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	m.header.magic, m.header.tries, m.header.format = magic, 1, format
	return m, nil
}

// Open takes over the memory of a predecessor, and the descriptor unless it fails: with ErrForeign if its records are
// of another format.
func Open(fd int, format uint64) (*Memory, error) {
	m, err := recognized(fd)
	if err == nil && m.header.format != format {
		unix.Munmap(m.page)
		return nil, errOtherVersion
	}
	return m, err
}

// Try counts a process that is to go on with the memory in fd, of any format, and returns how many have tried since one last
// has Proven itself. fd stays the caller's. What is not tunlb's memory is ErrForeign.
func Try(fd int) (before int, err error) {
	m, err := recognized(fd)
	if err != nil {
		return 0, err
	}
	defer unix.Munmap(m.page)
	tries := atomic.AddUint64(&m.header.tries, 1)
	return int(min(tries-1, math.MaxInt32)), nil
}

// Proven says that what is in the memory does no harm to who goes on with it.
func (m *Memory) Proven() { atomic.StoreUint64(&m.header.tries, 0) }

var errOtherVersion = fmt.Errorf("%w: it was written by another version", ErrForeign)

// recognized is tunlb's memory, of whatever format.
func recognized(fd int) (*Memory, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return nil, fmt.Errorf("memory kept: %w", err)
	}
	sealed, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil || stat.Size < slabsStart {
		return nil, fmt.Errorf("%w: it is no memory of tunlb's", ErrForeign)
	}
	if sealed&unix.F_SEAL_SHRINK == 0 {
		return nil, fmt.Errorf("%w: it could still be cut short", ErrForeign)
	}
	m, err := mapped(fd)
	if err != nil {
		return nil, err
	}
	if m.header.magic != magic {
		unix.Munmap(m.page)
		return nil, errOtherVersion
	}
	return m, nil
}

func mapped(fd int) (*Memory, error) {
	page, err := unix.Mmap(fd, 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map memory to keep: %w", err)
	}
	return &Memory{fd: fd, page: page, header: (*header)(unsafe.Pointer(&page[0]))}, nil
}

// Descriptor is the memory's, and stays its own.
func (m *Memory) Descriptor() int { return m.fd }

// Close gives the descriptor back, and with the last one the memory. Slabs that have been asked for stay mapped, since nobody knows
// who still looks at them.
func (m *Memory) Close() error {
	if m.page == nil {
		return nil
	}
	unix.Munmap(m.page)
	m.page, m.header = nil, nil
	return unix.Close(m.fd)
}

// Slabs is how many slabs there are.
func (m *Memory) Slabs() int {
	var stat unix.Stat_t
	if unix.Fstat(m.fd, &stat) != nil {
		return 0
	}
	return int((stat.Size - slabsStart) / SlabSize)
}

// Slab maps the slab with this number, and makes it if there is none: of zeros. It fails if there is no memory for it; whoever
// writes to a slab never finds then that there is none (SIGBUS).
func (m *Memory) Slab(i int) ([]byte, error) {
	at := int64(slabsStart) + int64(i)*SlabSize
	if err := unix.Fallocate(m.fd, 0, at, SlabSize); err != nil {
		return nil, fmt.Errorf("memory for 2 MiB more of connections: %w", err)
	}
	b, err := unix.Mmap(m.fd, at, SlabSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map 2 MiB more of connections: %w", err)
	}
	return b, nil
}

// Words returns what SetWords has put in, nil if nothing was. Words that are not as they were written are an error.
func (m *Memory) Words() ([]byte, error) {
	which := atomic.LoadUint64(&m.header.words)
	if which == 0 {
		return nil, nil
	}
	place := which & 1
	words := make([]byte, min(m.header.length[place], MaxWords))
	if _, err := unix.Pread(m.fd, words, wordsAt(place)); err != nil {
		return nil, fmt.Errorf("read words kept: %w", err)
	}
	if sum(words) != m.header.sum[place] {
		return nil, fmt.Errorf("read words kept: they are damaged")
	}
	return words, nil
}

// SetWords puts words in place of those that are there, at once: killed meanwhile, the old ones are left.
func (m *Memory) SetWords(words []byte) error {
	if len(words) > MaxWords {
		return fmt.Errorf("keep %d bytes of words: at most %d are possible", len(words), MaxWords)
	}
	which := atomic.LoadUint64(&m.header.words) + 2 ^ 1
	place := which & 1
	if err := unix.Fallocate(m.fd, 0, wordsAt(place), int64(len(words))+1); err != nil {
		return fmt.Errorf("memory for words to keep: %w", err)
	}
	for at := 0; at < len(words); {
		n, err := unix.Pwrite(m.fd, words[at:], wordsAt(place)+int64(at))
		if err != nil {
			return fmt.Errorf("write words to keep: %w", err)
		}
		at += n
	}
	m.header.length[place], m.header.sum[place] = uint64(len(words)), sum(words)
	atomic.StoreUint64(&m.header.words, which)
	return nil
}

func wordsAt(place uint64) int64 { return pageSize + int64(place)*MaxWords }

func sum(b []byte) uint64 { return crc64.Checksum(b, crc64.MakeTable(crc64.ECMA)) }
