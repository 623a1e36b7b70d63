//go:build !linux

package control

import (
	"errors"
	"net"
)

// checksPeers is false: the socket's mode and that of its folder alone decide here.
const checksPeers = false

func commandOf(int32) string { return "" }

func peerOf(net.Conn) (peer, error) { return peer{}, errors.ErrUnsupported }
