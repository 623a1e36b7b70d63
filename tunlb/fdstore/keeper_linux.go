package fdstore

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Keeper is the manager's side: a socket as NOTIFY_SOCKET names it, and the descriptors that came by it. Make it with NewKeeper and have one goroutine
// Serve. All else may be called at any time by anybody.
//
// It believes one sender, by the pid that the kernel vouches for. The others' messages are counted, and what they pass is closed.
type Keeper struct {
	conn    *net.UnixConn
	address string
	closed  chan struct{}

	mu      sync.Mutex
	sender  int
	kept    []kept
	refused uint64
	settled map[string]chan struct{} // a Settle waits for each, by its message
}

type kept struct {
	wired string
	fd    int
}

// maxKept bounds what one process may have kept, as FileDescriptorStoreMax= does; maxMessage and maxRights what one message may bring.
const (
	maxKept    = 4096
	maxMessage = 4096
	maxRights  = 253 // the kernel's own limit
)

// NewKeeper opens the socket, where only this user, and root, can reach it.
func NewKeeper() (*Keeper, error) {
	conn, err := listen()
	if err != nil {
		return nil, fmt.Errorf("open the supervisor's socket: %w", err)
	}
	address := conn.LocalAddr().String()
	if err := passCredentials(conn); err != nil {
		return nil, fmt.Errorf("see who sends to the supervisor's socket: %w", errors.Join(err, conn.Close(), remove(address)))
	}
	return &Keeper{conn: conn, address: address, closed: make(chan struct{}), settled: map[string]chan struct{}{}}, nil
}

func passCredentials(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
	return errors.Join(err, set)
}

// Close ends Serve and closes what is kept. Call it once.
func (k *Keeper) Close() error {
	err := errors.Join(k.conn.Close(), remove(k.address))
	close(k.closed)
	k.Drop()
	return err
}

// Address is the socket's, for NOTIFY_SOCKET.
func (k *Keeper) Address() string { return k.address }

// Trust makes pid the one whose messages count; 0 is nobody. A pid that is free again may become anybody's.
func (k *Keeper) Trust(pid int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sender = pid
}

// Refused is how many messages came from somebody else.
func (k *Keeper) Refused() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.refused
}

// Names are those of what is kept, as the next process is told them, in the order in which it came.
func (k *Keeper) Names() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	names := make([]string, len(k.kept))
	for i, e := range k.kept {
		names[i] = e.wired
	}
	return names
}

// Drop closes everything that is kept.
func (k *Keeper) Drop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, e := range k.kept {
		closeFD(e.fd)
	}
	k.kept = nil
}

// Equip gives cmd, whose environment is taken over from this process unless it has one, the socket's address and what is kept; what
// this process's own manager has said is not for it. Call release when it has started, or hasn't.
func (k *Keeper) Equip(cmd *exec.Cmd) (release func(), err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(Unmanaged(cmd.Env), "NOTIFY_SOCKET="+k.address)
	release = func() {
		for _, f := range cmd.ExtraFiles {
			f.Close()
		}
	}
	wired := make([]string, len(k.kept))
	for i, e := range k.kept {
		fd, err := duplicate(e.fd)
		if err != nil {
			release()
			return nil, fmt.Errorf("hand on %s: %w", e.wired, err)
		}
		wired[i] = e.wired
		cmd.ExtraFiles = append(cmd.ExtraFiles, os.NewFile(uintptr(fd), e.wired))
	}
	if len(wired) > 0 {
		cmd.Env = append(cmd.Env, parentVariable+"="+strconv.Itoa(os.Getpid()))
		cmd.Env = append(cmd.Env, listenVariables(wired)...)
	}
	return release, nil
}

// Serve handles messages until Close. Each assignment that is not about descriptors, such as READY=1, goes to notify, in order.
func (k *Keeper) Serve(notify func(key, value string)) error {
	message, control := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4*maxRights)+unix.CmsgSpace(unix.SizeofUcred))
	for {
		n, cn, flags, _, err := k.conn.ReadMsgUnix(message, control)
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			return fmt.Errorf("supervisor's socket: %w", err)
		}
		pid, fds := passed(control[:cn])
		text := string(message[:n])
		whole := flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) == 0
		if whole && !k.settle(text) && k.trusts(pid) {
			fds = k.handle(text, fds, notify)
		}
		for _, fd := range fds {
			closeFD(fd) // a barrier's among them: all that was before it has been done
		}
	}
}

// passed are the sender, 0 if unknown, and the descriptors of a message, which are the caller's.
func passed(control []byte) (pid int, fds []int) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return 0, nil
	}
	for _, m := range messages {
		if cred, err := unix.ParseUnixCredentials(&m); err == nil {
			pid = int(cred.Pid)
		}
		if rights, err := unix.ParseUnixRights(&m); err == nil {
			fds = append(fds, rights...)
		}
	}
	return pid, fds
}

func (k *Keeper) trusts(pid int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if pid != 0 && pid == k.sender {
		return true
	}
	k.refused++
	return false
}

// handle does what a message says and returns the descriptors that are not kept.
func (k *Keeper) handle(text string, fds []int, notify func(key, value string)) []int {
	var store, remove bool
	var name string
	for line := range strings.SplitSeq(text, "\n") {
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			continue
		}
		switch key {
		case "FDSTORE":
			store = value == "1"
		case "FDSTOREREMOVE":
			remove = value == "1"
		case "FDNAME":
			name = value
		case "FDPOLL", "BARRIER":
		default:
			notify(key, value)
		}
	}
	switch {
	case checkName(name) != nil:
		return fds
	case remove:
		k.forget(name)
		return fds
	case store:
		return k.keep(name, fds)
	}
	return fds
}

// keep takes what is new, and returns the rest.
func (k *Keeper) keep(wired string, fds []int) (rest []int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, fd := range fds {
		there := slices.ContainsFunc(k.kept, func(e kept) bool { return e.wired == wired && same(e.fd, fd) == isSame })
		if there || len(k.kept) >= maxKept {
			rest = append(rest, fd)
			continue
		}
		k.kept = append(k.kept, kept{wired: wired, fd: fd})
	}
	return rest
}

func (k *Keeper) forget(wired string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.kept = slices.DeleteFunc(k.kept, func(e kept) bool {
		if e.wired != wired {
			return false
		}
		closeFD(e.fd)
		return true
	})
}

// Settle returns when all that had been sent before has been handled: when the process is dead, everything that it has said.
// Something has to Serve.
func (k *Keeper) Settle() error {
	done, message := make(chan struct{}), "SETTLE="+rand.Text() // which nobody else can know
	k.mu.Lock()
	k.settled[message] = done
	k.mu.Unlock()
	if err := (manager{address: k.address}).send(message); err != nil {
		return fmt.Errorf("supervisor's own message: %w", err)
	}
	select {
	case <-done:
		return nil
	case <-k.closed:
		return net.ErrClosed
	}
}

func (k *Keeper) settle(message string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	done, ok := k.settled[message]
	if ok {
		delete(k.settled, message)
		close(done)
	}
	return ok
}
