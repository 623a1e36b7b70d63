package keeper

import (
	"errors"
	"io"
	"net"
	"os"
)

func receiveFiles(conn *net.UnixConn) (head [5]byte, files []*os.File, err error) {
	_, err = io.ReadFull(conn, head[:])
	return head, nil, err
}

func sendFile(*net.UnixConn, []byte, *net.TCPListener) error { return errors.ErrUnsupported }

func listenerOf(address string, _ []*os.File) (net.Listener, error) {
	return net.Listen("tcp", address)
}

// listensItself says whether a keeper is where people are, so that nothing is sent.
const listensItself = true
