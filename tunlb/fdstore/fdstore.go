// Package fdstore keeps named descriptors beyond the process that opened them.
//
// A service manager (systemd, or Keeper in `tunlb supervise`) is sent duplicates, and gives them to the next process: sd_notify(3), sd_listen_fds(3).
// Exec gives them, by the same environment variables, to the program that takes this one's place. To who starts,
// a crash and an upgrade look alike. What is in the descriptors is not the package's business.
package fdstore

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// ErrUnavailable is returned where descriptors can't be handed on.
var ErrUnavailable = errors.New("descriptors can be handed on under Linux only")

// Store is what was inherited and what is to be handed on. Make it with Open. It is safe for concurrent use.
//
// For each name it has a duplicate of its own, closed on exec: what is in the store stays open although who has put it there
// has closed it. For a TUN device that is the purpose; whoever wants it gone calls Remove.
type Store struct {
	manager   manager
	inherited bool

	mu      sync.Mutex
	entries map[string]*entry
}

// entry is a name's descriptor. Its generation is in the name that the manager knows it by, see wire.
type entry struct {
	fd         int
	generation int
	inherited  bool // and nobody has taken it yet
}

// Open takes over what this process has inherited, closes it on exec, and takes the variables that told of it out of
// the environment, so that no child believes them meant for it.
func Open() *Store {
	s := &Store{manager: manager{address: os.Getenv("NOTIFY_SOCKET")}, entries: map[string]*entry{}}
	for i, wired := range inheritedNames(os.Getenv, os.Getpid(), os.Getppid()) {
		fd := firstInherited + i
		if !claim(fd) {
			continue // the manager has promised more than there is
		}
		s.inherited = true
		name, generation := parseWire(wired)
		old := s.entries[name]
		if old != nil && old.generation > generation {
			closeFD(fd)
			s.manager.forget(wired)
			continue
		}
		if old != nil { // a Put was cut short between the new one and the removal of the old
			closeFD(old.fd)
			if old.generation != generation {
				s.manager.forget(wire(name, old.generation))
			}
		}
		s.entries[name] = &entry{fd: fd, generation: generation, inherited: true}
	}
	for _, v := range []string{"LISTEN_PID", parentVariable, "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"} {
		os.Unsetenv(v)
	}
	return s
}

// firstInherited is the first descriptor after the standard ones, sd_listen_fds(3).
const firstInherited = 3

// parentVariable is what Keeper sets instead of LISTEN_PID: the process whose children the descriptors are meant for. The pid of a child is known to its
// parent only when its environment is settled already.
const parentVariable = "LISTEN_PPID"

// inheritedNames are the names of the descriptors from firstInherited on, if they are meant for this process.
func inheritedNames(getenv func(string) string, pid, parent int) []string {
	if getenv("LISTEN_PID") != strconv.Itoa(pid) && getenv(parentVariable) != strconv.Itoa(parent) {
		return nil
	}
	n, err := strconv.Atoi(getenv("LISTEN_FDS"))
	if err != nil || n <= 0 || n > maxDescriptors {
		return nil
	}
	names := make([]string, n)
	copy(names, strings.Split(getenv("LISTEN_FDNAMES"), ":"))
	for i := range names {
		if names[i] == "" {
			names[i] = "unknown" // as systemd calls it; two of them would be one name
			if i > 0 {
				names[i] += "." + strconv.Itoa(i)
			}
		}
	}
	return names
}

// maxDescriptors bounds what is believed of LISTEN_FDS.
const maxDescriptors = 1 << 16

// Inherited says whether this process was given any descriptors: another has been here before.
func (s *Store) Inherited() bool { return s.inherited }

// Kept says whether there is a manager that is sent what is put, so that it outlives a crash. Whether the manager has
// room for it (FileDescriptorStoreMax= of a systemd unit) it does not tell.
func (s *Store) Kept() bool { return s.manager.address != "" }

// Names are those of everything in the store, sorted.
func (s *Store) Names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.entries))
}

// Take returns a duplicate, which is the caller's to close, of what was inherited by this name. It is there once. The store goes on keeping it: whoever can't
// make use of it calls Remove, and only then it is closed for good.
func (s *Store) Take(name string) (fd int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[name]
	if e == nil || !e.inherited {
		return -1, false
	}
	fd, err := duplicate(e.fd)
	if err != nil {
		return -1, false
	}
	e.inherited = false
	return fd, true
}

// Put remembers a duplicate of fd for Exec and sends one to the manager, if there is one. fd stays the caller's. What was there
// by this name before gives way, and not before the manager has the new one. On an error of the manager's it is remembered for Exec
// all the same. A name is at most 240 printable ASCII characters without colon.
func (s *Store) Put(name string, fd int) error {
	if err := checkName(name); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.entries[name]
	if old != nil && same(old.fd, fd) == isSame {
		old.inherited = false
		return nil // the manager has it: systemd would take it for one that it has already, by whatever name
	}
	own, err := duplicate(fd)
	if err != nil {
		return fmt.Errorf("keep %s: %w", name, err)
	}
	next := &entry{fd: own, generation: 1}
	if old != nil {
		next.generation = old.generation + 1
	}
	s.entries[name] = next
	if old == nil {
		return s.manager.store(wire(name, next.generation), own)
	}
	defer closeFD(old.fd)
	if same(old.fd, own) == unknown {
		// Should it be the same, systemd would ignore the new one, and the removal would leave nothing.
		return errors.Join(s.manager.forget(wire(name, old.generation)), s.manager.store(wire(name, next.generation), own))
	}
	if err := s.manager.store(wire(name, next.generation), own); err != nil {
		return err
	}
	return s.manager.forget(wire(name, old.generation))
}

// Remove closes what is there by this name and has the manager close it, and returns when it has. Nothing by this name
// is no error.
func (s *Store) Remove(name string) error { return s.remove([]string{name}) }

// Empty removes everything: nothing outlives this process.
func (s *Store) Empty() error { return s.remove(s.Names()) }

// Discard removes what was inherited and nobody has taken, and returns its names, for the log.
func (s *Store) Discard() ([]string, error) {
	var names []string
	s.mu.Lock()
	for name, e := range s.entries {
		if e.inherited {
			names = append(names, name)
		}
	}
	s.mu.Unlock()
	slices.Sort(names)
	return names, s.remove(names)
}

func (s *Store) remove(names []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	removed := false
	for _, name := range names {
		e := s.entries[name]
		if e == nil {
			continue
		}
		delete(s.entries, name)
		closeFD(e.fd)
		errs = append(errs, s.manager.forget(wire(name, e.generation)))
		removed = true
	}
	if removed {
		errs = append(errs, s.manager.barrier())
	}
	return errors.Join(errs...)
}

// Exec replaces this program by another: the process and what is in the store remain, all other descriptors that are closed on exec
// are closed, and goroutines end where they are. args[0] is the program's name. It returns on an error only, and then everything is as before.
func (s *Store) Exec(binary string, args []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := slices.Sorted(maps.Keys(s.entries))
	fds, wired := make([]int, len(names)), make([]string, len(names))
	for i, name := range names {
		e := s.entries[name]
		fds[i], wired[i] = e.fd, wire(name, e.generation)
	}
	env := os.Environ()
	if len(names) > 0 {
		env = append(env, "LISTEN_PID="+strconv.Itoa(os.Getpid()))
		env = append(env, listenVariables(wired)...)
	}
	if err := execWith(binary, args, env, fds); err != nil {
		return fmt.Errorf("exec %s: %w", binary, err)
	}
	return nil
}

// listenVariables tell how many descriptors there are from 3 on, and their names.
func listenVariables(wired []string) []string {
	return []string{"LISTEN_FDS=" + strconv.Itoa(len(wired)), "LISTEN_FDNAMES=" + strings.Join(wired, ":")}
}

// wire is the name that the manager and the next process see: managers keep any number of descriptors by one name and can only remove all of
// them. With a generation in it the new one can be sent before the old one is removed, and a crash in between loses neither.
func wire(name string, generation int) string {
	if generation == 0 {
		return name
	}
	return name + "@" + strconv.Itoa(generation)
}

// parseWire undoes wire. What has no generation is from somebody else, such as a socket unit of systemd.
func parseWire(wired string) (name string, generation int) {
	i := strings.LastIndexByte(wired, '@')
	if i < 0 {
		return wired, 0
	}
	n, err := strconv.Atoi(wired[i+1:])
	if err != nil || n < 1 || wire(wired[:i], n) != wired {
		return wired, 0
	}
	return wired[:i], n
}

func checkName(name string) error {
	if name == "" || len(name) > 240 || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r > '~' || r == ':' }) {
		return fmt.Errorf("keep %q: a name is 1 to 240 printable ASCII characters without colon", name)
	}
	return nil
}

// sameness is whether two descriptors are of one open file, as after dup(2).
type sameness uint8

const (
	unknown sameness = iota // the kernel does not tell
	isSame
	isOther
)
