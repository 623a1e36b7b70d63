//go:build unix && !linux

package control

import (
	"io/fs"
	"net"
	"sync"
	"syscall"
)

// masking: the umask is the whole process's, and two that set it at once would not put back what it was.
var masking sync.Mutex

// listenUnix sets the umask for the moment in which the socket is made: a chmod afterwards would leave it open to others for an
// instant.
func listenUnix(path string, mode fs.FileMode) (net.Listener, error) {
	masking.Lock()
	defer masking.Unlock()
	old := syscall.Umask(int(^mode.Perm() & 0o777))
	defer syscall.Umask(old)
	return net.Listen("unix", path)
}
