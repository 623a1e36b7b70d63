package control

import (
	"errors"
	"io/fs"
	"net"
	"syscall"
)

// connectionRefused (WSAECONNREFUSED) is what the system says of a socket that nobody listens on.
const connectionRefused = syscall.Errno(10061)

func namespaceID() string { return "0" }

// listenUnix leaves the permissions to those of the folder: Windows has no mode bits for sockets.
func listenUnix(path string, _ fs.FileMode) (net.Listener, error) { return net.Listen("unix", path) }

// trusted leaves it to the folder's access list.
func trusted(string) error { return nil }

func listening(int) error { return errors.New("sockets are not inherited on Windows") }
