package tunlb

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
	"time"
)

func threadID() int64 { return int64(syscall.Gettid()) }

// cpuTime reads the first number of schedstat, which is in nanoseconds where stat counts in hundredths of a
// second. It is behind by what the thread has run since it was scheduled, a few milliseconds at most.
func cpuTime(thread int64) time.Duration {
	b, err := os.ReadFile("/proc/self/task/" + strconv.FormatInt(thread, 10) + "/schedstat")
	if err != nil {
		return 0 // a kernel without it, or the thread has ended
	}
	first, _, _ := bytes.Cut(b, []byte(" "))
	ns, _ := strconv.ParseInt(string(first), 10, 64)
	return time.Duration(ns)
}
