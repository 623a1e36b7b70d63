package replay

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/tunlb/tunlb/tunlb/capture"
)

// source gives a file's packets in the order of their times. Each is borrowed until the next call.
type source interface {
	Next() (*capture.Packet, error)
}

// maxUnsorted bounds the memory for a file that is not in order.
const maxUnsorted = 256 << 20

// file is a capture that is read more than once: first for what it is like, then for its packets.
type file struct {
	path   string
	f      *os.File
	sorted bool // found by survey
	bytes  int64
}

// openFile opens a capture. Close it after use.
func openFile(path string) (*file, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, errors.Join(fmt.Errorf("%s: it has to be read twice, which a pipe can't be: save it as a file first", path), err)
	}
	return &file{path: path, f: f}, nil
}

func (f *file) Close() error { return f.f.Close() }

// reader begins anew.
func (f *file) reader() (*capture.Reader, error) {
	if _, err := f.f.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("%s: %w", f.path, err)
	}
	return capture.NewReader(f.f, f.path)
}

// visit goes through all packets as they are in the file, and finds out whether they are in order.
func (f *file) visit(see func(p *capture.Packet) error) error {
	r, err := f.reader()
	if err != nil {
		return err
	}
	f.sorted, f.bytes = true, 0
	last := int64(0)
	for {
		p, err := r.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		f.sorted = f.sorted && p.Time >= last
		last = p.Time
		f.bytes += int64(len(p.Data))
		if err := see(p); err != nil {
			return err
		}
	}
}

// inOrder gives the packets in order of time, and those of one time as they are in the file. It wants visit before.
func (f *file) inOrder() (source, error) {
	if f.sorted {
		return f.reader()
	}
	if f.bytes > maxUnsorted {
		return nil, &capture.Error{File: f.path, What: "its packets are not in order of time, and it is too large to be sorted in memory", Instead: "sort it with `reordercap IN OUT`"}
	}
	list := &inMemory{}
	err := f.visit(func(p *capture.Packet) error {
		kept := *p
		kept.Data = slices.Clone(p.Data)
		list.packets = append(list.packets, kept)
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(list.packets, func(a, b capture.Packet) int { return cmp.Compare(a.Time, b.Time) })
	return list, nil
}

// inMemory is a sorted file.
type inMemory struct{ packets []capture.Packet }

func (l *inMemory) Next() (*capture.Packet, error) {
	if len(l.packets) == 0 {
		return nil, io.EOF
	}
	p := &l.packets[0]
	l.packets = l.packets[1:]
	return p, nil
}
