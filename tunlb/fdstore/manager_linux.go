package fdstore

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// manager is who keeps descriptors, by the address of its socket as in NOTIFY_SOCKET: a path, or a name that starts with @.
// The zero value is nobody, who takes everything and keeps nothing.
type manager struct{ address string }

// patience is how long a manager may take. systemd answers within milliseconds.
const patience = 5 * time.Second

// store sends a duplicate of fd. FDPOLL=0: a TUN whose device is down polls as hung up, and would be thrown away.
func (m manager) store(wired string, fd int) error {
	if err := m.send("FDSTORE=1\nFDNAME="+wired+"\nFDPOLL=0", fd); err != nil {
		return fmt.Errorf("have the service manager keep %s: %w", wired, err)
	}
	return nil
}

func (m manager) forget(wired string) error {
	if err := m.send("FDSTOREREMOVE=1\nFDNAME=" + wired); err != nil && !gone(err) {
		return fmt.Errorf("have the service manager forget %s: %w", wired, err)
	}
	return nil
}

// barrier returns when the manager has done all that it was sent before: it closes the descriptor it gets only then, sd_notify_barrier(3).
func (m manager) barrier() error {
	if m.address == "" {
		return nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	sent := m.send("BARRIER=1", int(w.Fd()))
	w.Close()
	switch {
	case gone(sent):
		return nil
	case sent != nil:
		return fmt.Errorf("wait for the service manager: %w", sent)
	}
	if err := r.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := r.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("the service manager at %s has not answered for %v", m.address, patience)
	}
	return nil
}

// gone says that nobody is there any more: what it has kept is closed.
func gone(err error) bool { return errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT) }

func (m manager) send(message string, fds ...int) error {
	if m.address == "" {
		return nil
	}
	if !strings.HasPrefix(m.address, "/") && !strings.HasPrefix(m.address, "@") {
		return fmt.Errorf("NOTIFY_SOCKET=%s: want a path or a name that starts with @", m.address)
	}
	// Dialed anew each time: a manager that has been restarted has a new socket.
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: m.address, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var sent error // net's WriteMsgUnix refuses a connected socket
	err = raw.Write(func(fd uintptr) bool {
		sent = unix.Sendmsg(int(fd), []byte(message), rights, nil, 0)
		return sent != unix.EAGAIN && sent != unix.EINTR
	})
	return errors.Join(err, os.NewSyscallError("sendmsg", sent))
}
