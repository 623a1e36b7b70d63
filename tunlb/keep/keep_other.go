//go:build !linux

package keep

// Memory is there on Linux only.
type Memory struct{}

// Create fails with ErrUnavailable.
func Create(uint64) (*Memory, error) { return nil, ErrUnavailable }

// Open fails with ErrUnavailable.
func Open(int, uint64) (*Memory, error) { return nil, ErrUnavailable }

// Try fails with ErrUnavailable.
func Try(int) (int, error) { return 0, ErrUnavailable }

func (*Memory) Proven()                  {}
func (*Memory) Descriptor() int          { return -1 }
func (*Memory) Close() error             { return nil }
func (*Memory) Slabs() int               { return 0 }
func (*Memory) Slab(int) ([]byte, error) { return nil, ErrUnavailable }
func (*Memory) Words() ([]byte, error)   { return nil, nil }
func (*Memory) SetWords([]byte) error    { return ErrUnavailable }
