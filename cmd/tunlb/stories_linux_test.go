package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestStories runs the scripts that tell the stories with other people's tools, out of sight: what they name below
// /run is seen by nobody else. They end with an error as soon as something is not as they say.
func TestStories(t *testing.T) {
	needLab(t)
	if os.Getuid() != 0 {
		t.Skip("ip netns wants root")
	}
	for _, tool := range []string{"bash", "unshare", "ip", "sysctl", "python3", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("the scripts use %s: %v", tool, err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	if err := os.Symlink(self, filepath.Join(bin, "tunlb")); err != nil {
		t.Fatal(err)
	}
	for name, said := range map[string]string{
		"story-nat.sh": "current weight 2 of max 2",
		"story-dr.sh":  "fix: on rs1: sysctl -w net.ipv4.conf.all.arp_ignore=1",
	} {
		t.Run(name, func(t *testing.T) {
			script, err := filepath.Abs(filepath.Join("..", "..", "scripts", name))
			if err != nil {
				t.Fatal(err)
			}
			before := processes(t)
			cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--net", "bash", "-c", `mount -t tmpfs tmpfs /run && exec "$0"`, script)
			cmd.Env = append(os.Environ(), "TUNLB_BIN="+bin, asProgram+"=1", raceOptions)
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), said) {
				t.Errorf("%v; want it to say %q\n%s", err, said, out)
			}
			if after := processes(t); len(after) > len(before) {
				t.Errorf("processes are left: %v, before: %v", after, before)
			}
		})
	}
}
