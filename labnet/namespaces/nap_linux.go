package namespaces

import (
	"time"

	"golang.org/x/sys/unix"
)

// nap sleeps as exactly as the kernel can. A signal wakes it, which makes it a bit short.
func nap(d time.Duration) {
	t := unix.NsecToTimespec(int64(d))
	_ = unix.Nanosleep(&t, nil)
}
