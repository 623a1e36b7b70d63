//go:build unix

package keeper

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// receiveFiles reads a first frame's head, and descriptors that came with it. The caller closes these.
func receiveFiles(conn *net.UnixConn) (head [5]byte, files []*os.File, err error) {
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := conn.ReadMsgUnix(head[:], oob)
	if err != nil {
		return head, nil, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
		if err != nil {
			return head, files, err
		}
	}
	if err == nil {
		_, err = io.ReadFull(conn, head[n:])
	}
	return head, files, err
}

// sendFile sends the beginning of a request with a listener's descriptor.
func sendFile(conn *net.UnixConn, b []byte, l *net.TCPListener) error {
	f, err := l.File()
	if err != nil {
		return err
	}
	defer f.Close()
	n, _, err := conn.WriteMsgUnix(b, unix.UnixRights(int(f.Fd())), nil)
	if err == nil && n < len(b) {
		_, err = conn.Write(b[n:])
	}
	return err
}

// listenerOf is the listener that was sent.
func listenerOf(address string, files []*os.File) (net.Listener, error) {
	if len(files) != 1 {
		return nil, errors.New("publish: no listener came with it")
	}
	l, err := net.FileListener(files[0])
	if err != nil {
		return nil, fmt.Errorf("publish %s: %w", address, err)
	}
	return l, nil
}

// listensItself says whether a keeper is where people are, so that nothing is sent.
const listensItself = false
