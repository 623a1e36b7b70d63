package keeper

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// ErrNoLab says that no lab of a name is up.
var ErrNoLab = errors.New("no such lab is up")

// Place is the directory of one lab that is up, was, or is to be. A plain value. Beside it is a lock, NAME.lock, that the
// lab's keeper holds for as long as it lives, however it ends: who gets the lock knows that there is no keeper.
type Place struct {
	Name string
	Dir  string
}

// Socket is where the keeper is asked.
func (p Place) Socket() string { return filepath.Join(p.Dir, "socket") }

// Log is what keeper and director say.
func (p Place) Log() string { return filepath.Join(p.Dir, "log") }

func (p Place) lock() string { return p.Dir + ".lock" }

func (p Place) pid() string { return filepath.Join(p.Dir, "pid") }

// CheckName wants a name that can be a directory and an argument.
func CheckName(name string) error {
	if !regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$`).MatchString(name) || strings.HasSuffix(name, ".lock") {
		return fmt.Errorf("lab name %q: want 1 to 32 letters, digits, dots, hyphens or underscores, like nat-2", name)
	}
	return nil
}

// Root is the directory of this user's labs, which it makes if need be. It refuses one that others could write to.
func Root() (string, error) {
	parent := filepath.Join(os.TempDir(), "tunlb-"+strconv.Itoa(os.Getuid()))
	if run := os.Getenv("XDG_RUNTIME_DIR"); run != "" && owned(run) == nil {
		parent = filepath.Join(run, "tunlb")
	}
	root := filepath.Join(parent, "labs")
	for _, dir := range []string{parent, root} {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return "", fmt.Errorf("make a directory for labs: %w", err)
		}
		if err := owned(dir); err != nil {
			return "", fmt.Errorf("directory for labs: %w", err)
		}
	}
	return root, private(root)
}

// At is the place of a lab.
func At(name string) (Place, error) {
	if err := CheckName(name); err != nil {
		return Place{}, err
	}
	root, err := Root()
	return Place{Name: name, Dir: filepath.Join(root, name)}, err
}

// All are the places of labs that are up or coming up, by name. It removes what killed keepers have left.
func All() ([]Place, error) {
	root, err := Root()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if name := strings.TrimSuffix(e.Name(), ".lock"); CheckName(name) == nil && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	var places []Place
	for _, name := range names {
		p := Place{Name: name, Dir: filepath.Join(root, name)}
		switch claim, err := p.Claim(); {
		case errors.Is(err, ErrClaimed):
			places = append(places, p)
		case err != nil:
			return nil, err
		default:
			if err := claim.Remove(); err != nil {
				return nil, err
			}
		}
	}
	return places, nil
}

// ErrClaimed says that a lab is up, or is being brought up or down.
var ErrClaimed = errors.New("it is up already")

// Claim takes the lock of a place where no keeper is. The error wraps ErrClaimed if there is one. Whoever has the
// claim removes or releases it.
func (p Place) Claim() (*Claim, error) {
	f, err := claim(p.lock())
	if err != nil {
		return nil, fmt.Errorf("lab %s: %w", p.Name, err)
	}
	return &Claim{Place: p, File: f}, nil
}

// Claim is a place held.
type Claim struct {
	Place
	// File is the lock: a process that inherits it holds the place as well, until it ends.
	File *os.File
}

// Prepare makes the directory anew.
func (c *Claim) Prepare() error {
	if err := os.RemoveAll(c.Dir); err != nil {
		return err
	}
	return os.Mkdir(c.Dir, 0o700)
}

// Note writes down the keeper's process.
func (c *Claim) Note(pid int) error { return os.WriteFile(c.pid(), []byte(strconv.Itoa(pid)), 0o600) }

// Release lets go of the place, but for those who have inherited it.
func (c *Claim) Release() error { return c.File.Close() }

// Remove removes the directory and the lock.
func (c *Claim) Remove() error {
	return errors.Join(os.RemoveAll(c.Dir), removeLock(c.File, c.lock()))
}

// PID is the keeper's process; false if it is not noted. It is that only while the place is claimed.
func (p Place) PID() (int, bool) {
	b, err := os.ReadFile(p.pid())
	if err != nil {
		return 0, false
	}
	pid, err := strconv.Atoi(string(b))
	return pid, err == nil && pid > 1
}
