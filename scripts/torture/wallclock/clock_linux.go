package wallclock

import (
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Clock is one program's wall clock. Make it with New, and Close it after use. Safe for concurrent use.
type Clock struct {
	path string
	*page
}

// page is what a Clock and Main share: by how many ns the clock is ahead, and how often it was asked for.
type page struct{ ahead, asked atomic.Int64 }

const pageSize = int(unsafe.Sizeof(page{}))

// New makes a clock that shows what the machine's does. It keeps a file in dir.
func New(dir string) (*Clock, error) {
	path := filepath.Join(dir, "wallclock")
	if err := os.WriteFile(path, make([]byte, pageSize), 0o600); err != nil {
		return nil, err
	}
	p, err := openPage(path)
	if err != nil {
		return nil, err
	}
	return &Clock{path, p}, nil
}

func openPage(path string) (*page, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := unix.Mmap(int(f.Fd()), 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	return (*page)(unsafe.Pointer(unsafe.SliceData(b))), nil
}

// Set sets the clock ahead of the machine's, or behind it.
func (c *Clock) Set(ahead time.Duration) { c.ahead.Store(int64(ahead)) }

// Asked is how often the program has asked for the time.
func (c *Clock) Asked() int64 { return c.asked.Load() }

// Args are the arguments by which a program that calls Main runs another one under the clock.
func (c *Clock) Args(program ...string) []string {
	return append([]string{command, c.path}, program...)
}

// Close gives the clock up. The program that runs under it has to have ended.
func (c *Clock) Close() error {
	return os.NewSyscallError("munmap", unix.Munmap(unsafe.Slice((*byte)(unsafe.Pointer(c.page)), pageSize)))
}
