package control

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rs/zerolog"
)

// Some user and groups that nobody has.
const (
	stranger      = 61234
	strangers     = 61235
	strangersToo  = 61236
	permissionErr = 3
)

// peerName is what the process of another user is called.
const peerName = "peer"

// askAs asks as another user, or does something else that peerDoes can.
func askAs(t *testing.T, path string, uid, gid uint32, does string) (code int, says string) {
	t.Helper()
	for dir := filepath.Dir(path); dir != "/"; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err != nil || info.Mode()&0o001 == 0 {
			if err := os.Chmod(dir, 0o711); err != nil {
				t.Fatal(err)
			}
		}
	}
	// A copy that others may run, in a place that they may reach.
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(filepath.Dir(path), peerName)
	if err := os.WriteFile(exe, self, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), asPeer+"="+path, asPeerDoes+"="+does)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// TestPeers: who may ask is who the kernel says they are, whatever the socket's mode lets in.
func TestPeers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be somebody else")
	}
	for name, test := range map[string]struct {
		allow    Allow
		uid, gid uint32
		want     int
	}{
		"root":               {Allow{}, 0, 0, 0},
		"root in any group":  {Allow{}, 0, strangers, 0},
		"a stranger":         {Allow{}, stranger, strangers, permissionErr},
		"root's group":       {Allow{}, stranger, 0, permissionErr},
		"a user":             {Allow{UIDs: []uint32{7, stranger}}, stranger, strangers, 0},
		"another user":       {Allow{UIDs: []uint32{stranger}}, stranger + 1, strangers, permissionErr},
		"a group":            {Allow{GIDs: []uint32{strangers}}, stranger, strangers, 0},
		"another group":      {Allow{GIDs: []uint32{strangers}}, stranger, strangersToo, permissionErr},
		"a group is no user": {Allow{GIDs: []uint32{stranger}}, stranger, strangers, permissionErr},
	} {
		t.Run(name, func(t *testing.T) {
			path, _ := serveFor(t, &daemon{}, test.allow, zerolog.Nop())
			// The check has to hold by itself.
			if err := os.Chmod(path, 0o666); err != nil {
				t.Fatal(err)
			}
			if code, says := askAs(t, path, test.uid, test.gid, "status"); code != test.want {
				t.Errorf("exit %d, want %d: %s", code, test.want, says)
			} else if code != 0 && !strings.Contains(says, fmt.Sprintf("user %d may not ask", test.uid)) {
				t.Errorf("refused with %s", says)
			} else if code != 0 && !strings.Contains(says, fmt.Sprintf("groups %d:", test.allow.GIDs)) {
				t.Errorf("no groups in %s", says)
			}
		})
	}
}

// TestPeersMode: the mode is as configured, unless somebody else is to be let in.
func TestPeersMode(t *testing.T) {
	for want, allow := range map[fs.FileMode]Allow{0o600: {}, 0o666: {UIDs: []uint32{stranger}}} {
		path, _ := serveFor(t, &daemon{}, allow, zerolog.Nop())
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("allow %+v: %v, %v, want %v", allow, info.Mode(), err, want)
		}
	}
}

// TestPeersLog: a stranger fills no log.
func TestPeersLog(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be somebody else")
	}
	var log bytes.Buffer
	path, stop := serveFor(t, &daemon{}, Allow{UIDs: []uint32{1}}, zerolog.New(&log))
	for range 3 {
		askAs(t, path, stranger, strangers, "drain")
	}
	askAs(t, path, stranger+1, strangers, "status")
	stop()
	if n := strings.Count(log.String(), "refused"); n != 2 {
		t.Errorf("%d lines for two strangers:\n%s", n, &log)
	}
}

// TestAllow: groups of the user database count as well as the one that the kernel names.
func TestAllow(t *testing.T) {
	groups := func(uid uint32) []uint32 {
		if uid == stranger {
			return []uint32{100, strangersToo}
		}
		return nil
	}
	const self = 1000
	for _, test := range []struct {
		allow Allow
		p     peer
		want  bool
	}{
		{Allow{}, peer{uid: 0, gid: 5}, true},
		{Allow{}, peer{uid: self, gid: 5}, true},
		{Allow{}, peer{uid: stranger, gid: 0}, false},
		{Allow{GIDs: []uint32{strangersToo}}, peer{uid: stranger, gid: 5}, true},
		{Allow{GIDs: []uint32{strangersToo}}, peer{uid: stranger + 1, gid: 5}, false},
		{Allow{GIDs: []uint32{5}}, peer{uid: stranger + 1, gid: 5}, true},
		{Allow{UIDs: []uint32{100}}, peer{uid: stranger, gid: 100}, false},
	} {
		if got := test.allow.has(test.p, self, groups); got != test.want {
			t.Errorf("%+v has %+v: %v", test.allow, test.p, got)
		}
	}
	a, err := ParseAllow([]string{"root", "61234"}, []string{"root", "61235"})
	if err != nil || fmt.Sprint(a) != "{[0 61234] [0 61235]}" {
		t.Errorf("parsed: %v, %v", a, err)
	}
	for _, bad := range [][2][]string{{{"no such user"}, nil}, {nil, {"no such group"}}, {{"-1"}, nil}, {{"4294967296"}, nil}, {{""}, nil}} {
		if a, err := ParseAllow(bad[0], bad[1]); err == nil || !a.none() {
			t.Errorf("%q: %v, no error", bad, a)
		}
	}
}
