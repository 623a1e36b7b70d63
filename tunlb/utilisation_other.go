//go:build !linux

package tunlb

import "time"

func threadID() int64 { return 0 }

func cpuTime(int64) time.Duration { return 0 }
