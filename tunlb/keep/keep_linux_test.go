package keep

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

func create(t *testing.T) *Memory {
	t.Helper()
	m, err := Create(7)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// open opens what another process would inherit.
func open(t *testing.T, m *Memory, format uint64) (*Memory, error) {
	t.Helper()
	fd, err := unix.FcntlInt(uintptr(m.Descriptor()), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	next, err := Open(fd, format)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	t.Cleanup(func() { next.Close() })
	return next, nil
}

func TestMemory(t *testing.T) {
	m := create(t)
	if words, err := m.Words(); words != nil || err != nil || m.Slabs() != 0 {
		t.Errorf("a new memory has %d slabs and the words %q, %v", m.Slabs(), words, err)
	}
	for i := range 3 {
		b, err := m.Slab(i)
		if err != nil || len(b) != SlabSize || !bytes.Equal(b, make([]byte, SlabSize)) {
			t.Fatalf("slab %d has %d bytes, and not all are zero: %v", i, len(b), err)
		}
		b[0], b[SlabSize-1] = byte(i+1), byte(i+2)
	}
	for _, words := range []string{"first", "", "the third ones are longer", "4"} {
		if err := m.SetWords([]byte(words)); err != nil {
			t.Fatal(err)
		}
		next, err := open(t, m, 7)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := next.Words(); string(got) != words || err != nil {
			t.Errorf("words are %q (%v), want %q", got, err, words)
		}
	}
	next, err := open(t, m, 7)
	if err != nil {
		t.Fatal(err)
	}
	if next.Slabs() != 3 {
		t.Fatalf("%d slabs are left of 3", next.Slabs())
	}
	for i := range 3 {
		if b, err := next.Slab(i); err != nil || b[0] != byte(i+1) || b[SlabSize-1] != byte(i+2) {
			t.Errorf("slab %d is not as it was written: %v", i, err)
		}
	}
	if err := m.SetWords(make([]byte, MaxWords+1)); err == nil {
		t.Error("too many words were taken")
	}
	if err := m.SetWords(make([]byte, MaxWords)); err != nil {
		t.Error(err)
	}
}

// TestForeign: what another version has written, or something else, is refused and left to the caller.
func TestForeign(t *testing.T) {
	m := create(t)
	if _, err := open(t, m, 8); !errors.Is(err, ErrForeign) {
		t.Errorf("another format: %v", err)
	}
	m.header.magic[0]++
	if _, err := open(t, m, 7); !errors.Is(err, ErrForeign) {
		t.Errorf("another magic: %v", err)
	}
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if _, err := Open(int(null.Fd()), 7); !errors.Is(err, ErrForeign) {
		t.Errorf("/dev/null: %v", err)
	}
	if _, err := Open(-1, 7); err == nil {
		t.Error("no descriptor at all was taken")
	}
}

// TestSealed: what is mapped can't be taken away, and there is room for more all the same. What could be cut short is refused.
func TestSealed(t *testing.T) {
	m := create(t)
	if err := unix.Ftruncate(m.Descriptor(), pageSize); !errors.Is(err, unix.EPERM) {
		t.Errorf("cut short: %v, want EPERM", err)
	}
	for i := range 3 {
		if b, err := m.Slab(i); err != nil || len(b) != SlabSize {
			t.Fatalf("slab %d: %v", i, err)
		}
	}
	page := bytes.Clone(m.page)
	fd, err := unix.MemfdCreate("unsealed", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, slabsStart); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Pwrite(fd, page, 0); err != nil {
		t.Fatal(err)
	}
	_, err = Open(fd, 7)
	_, tryErr := Try(fd)
	if !errors.Is(err, ErrForeign) || !errors.Is(tryErr, ErrForeign) {
		t.Errorf("one that is not sealed: %v, %v", err, tryErr)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK); err != nil {
		t.Fatal(err)
	}
	sealed, err := Open(fd, 7)
	if err != nil {
		t.Fatalf("the same, sealed: %v", err)
	}
	unix.Munmap(sealed.page)
}

// TestTry: whoever makes the memory and whoever opens it counts until one of them has proven itself, whatever the format.
func TestTry(t *testing.T) {
	m := create(t)
	for want := 1; want < 4; want++ {
		if got, err := Try(m.Descriptor()); got != want || err != nil {
			t.Errorf("%d before, %v; want %d", got, err, want)
		}
	}
	other, err := open(t, m, 7)
	if err != nil {
		t.Fatal(err)
	}
	other.Proven()
	m.header.format++
	for want := range 3 {
		if got, err := Try(m.Descriptor()); got != want || err != nil {
			t.Errorf("after one has proven itself %d before, %v; want %d", got, err, want)
		}
	}
	if _, err := Try(0); !errors.Is(err, ErrForeign) {
		t.Errorf("the standard input: %v", err)
	}
}

func TestDamagedWords(t *testing.T) {
	m := create(t)
	if err := m.SetWords([]byte("some words")); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Pwrite(m.fd, []byte("x"), wordsAt(m.header.words&1)+3); err != nil {
		t.Fatal(err)
	}
	if words, err := m.Words(); err == nil {
		t.Errorf("damaged words were read: %q", words)
	}
}

const childEnv = "TUNLB_KEEP_TEST_CHILD"

// TestKilled: a process that is killed while it writes words leaves those before or the new ones, whole.
func TestKilled(t *testing.T) {
	if os.Getenv(childEnv) != "" {
		m, err := Open(3, 7)
		if err != nil {
			t.Fatal(err)
		}
		for i := uint64(1); ; i++ {
			if err := m.SetWords(bytes.Repeat(binary.NativeEndian.AppendUint64(nil, i), 1<<14+int(i%1000))); err != nil {
				t.Fatal(err)
			}
			if i == 20 {
				os.Stdout.WriteString("20 were written\n")
			}
		}
	}
	m := create(t)
	last := uint64(0)
	for range 20 {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestKilled$")
		cmd.Env = append(os.Environ(), childEnv+"=1")
		fd, err := unix.Dup(m.Descriptor())
		if err != nil {
			t.Fatal(err)
		}
		inherited := os.NewFile(uintptr(fd), "memory")
		cmd.ExtraFiles = []*os.File{inherited}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		inherited.Close()
		if _, err := out.Read(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		cmd.Process.Kill()
		cmd.Wait()
		words, err := m.Words()
		if err != nil || len(words) < 8 {
			t.Fatalf("%d bytes of words: %v", len(words), err)
		}
		i := binary.NativeEndian.Uint64(words)
		if !bytes.Equal(words, bytes.Repeat(words[:8], 1<<14+int(i%1000))) {
			t.Fatalf("words number %d are not whole", i)
		}
		if last = max(last, i); last < 20 {
			t.Errorf("only %d were written", last)
		}
	}
}
