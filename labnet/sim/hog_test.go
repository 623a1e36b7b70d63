package sim

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

// hogVariable makes the test's program a hog.
const hogVariable = "TUNLB_SIM_HOG"

// hog computes until it is killed, or for the longest that a test could want it.
func hog() {
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
	}
	os.Exit(0)
}

// besideHogs runs other processes that take all the time of the processors that they get, until the test ends.
func besideHogs(t *testing.T, n int) {
	t.Helper()
	for range n {
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), hogVariable+"=1")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = c.Process.Kill() // it may have ended
			_ = c.Wait()
		})
	}
}
