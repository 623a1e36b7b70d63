package namespaces

import (
	"time"

	"golang.org/x/sys/unix"
)

// nap sleeps as exactly as the kernel can, or until a signal comes.
func nap(d time.Duration) {
	t := unix.NsecToTimespec(int64(d))
	_ = unix.Nanosleep(&t, nil)
}
