package controlplane

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/tunlb/tunlb/labnet/netns"
)

func TestMain(m *testing.M) { os.Exit(netns.Main(m.Run)) }

// TestWithoutAttack: a case in which nothing is done has shown nothing, and says so. With the attack the torture's own tests run all of them.
func TestWithoutAttack(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	for _, check := range []func() error{netns.Check, netns.CheckTUN} {
		var cannot *netns.Unsupported
		if err := check(); errors.As(err, &cannot) {
			t.Skip(cannot)
		} else if err != nil {
			t.Fatal(err)
		}
	}
	binary := build(t)
	for _, c := range Cases() {
		t.Run(c.Name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			r, err := c.Run(ctx, binary, 0)
			if err != nil {
				t.Fatal(err)
			}
			proofs, failed := 0, 0
			for i := range r.Checks {
				if c := &r.Checks[i]; c.Proof {
					if proofs++; !c.OK() {
						failed++
					}
				}
			}
			if proofs == 0 || failed == 0 {
				t.Errorf("%d of %d proofs have failed:\n%s", failed, proofs, r)
			}
		})
	}
}

// build makes tunlb as it is shipped: the race detector would take the memory that is measured.
func build(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "tunlb")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "../../../cmd/tunlb").CombinedOutput()
	if err != nil {
		t.Fatalf("build tunlb: %v\n%s", err, out)
	}
	return binary
}
