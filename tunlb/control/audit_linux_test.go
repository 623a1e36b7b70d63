package control

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/user"
	"strings"
	"testing"

	"github.com/rs/zerolog"
)

// TestChangesAreLogged: over a socket, as another user: whoever changes something is in the log, and who only asks is not.
func TestChangesAreLogged(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be somebody else")
	}
	const uid = 1
	name := ""
	if u, err := user.LookupId(fmt.Sprint(uid)); err == nil {
		name = u.Username
	}
	for _, test := range []struct {
		does    string
		refused bool
		says    string // of the change, in its line; "" wants no line
	}{
		{"status", false, ""},
		{"conns", false, ""},
		{"explain", true, ""},
		{"table", false, ""},
		{"dry-run", false, ""},
		{"reload", false, `"changes":["+ service web"]`},
		{"drain", false, `"server":"rs1","do":"drain"`},
		{"kill", false, `"query":"id=tcp%2F198.51.100.7%3A0%2F203.0.113.22%3A80","killed":1`},
		{"kill-all", false, `"killed":3`},
		{"ipvsadm", false, `"verb":"add-service","service":"tcp/203.0.113.22:80","message"`},
		{"reload", true, `"error":"tunlb.yaml:1:1: bad"`},
		{"drain", true, `"error":"rs1: no such server"`},
		{"kill", true, `"killed":0`},
		{"ipvsadm", true, `"error":"Service already exists"`},
	} {
		t.Run(fmt.Sprint(test.does, " refused ", test.refused), func(t *testing.T) {
			d := &daemon{conns: 3, reload: ReloadResult{Changes: []string{"+ service web"}}}
			if test.refused {
				d.reload = ReloadResult{Errors: []string{"tunlb.yaml:1:1: bad"}}
				d.order = fmt.Errorf("rs1: no such server")
				d.dead = map[string]struct{}{conn(0).ID(): {}}
				if err := d.LVSCommand(command(t, "-A -t 203.0.113.22:80")); err != nil {
					t.Fatal(err)
				}
			}
			var log bytes.Buffer
			path, stop := serveFor(t, d, Allow{UIDs: []uint32{uid}}, zerolog.New(&log))
			code, said := askAs(t, path, uid, uid, test.does)
			stop()
			if refused := code != 0; refused != test.refused {
				t.Fatalf("exit %d: %s", code, said)
			}
			lines := strings.Split(strings.TrimSpace(log.String()), "\n")
			if test.says == "" {
				if log.Len() > 0 {
					t.Errorf("who only asks is logged: %s", &log)
				}
				return
			}
			var line struct {
				Level, User, Command string
				UID                  *uint32
				PID                  int
			}
			if err := json.Unmarshal([]byte(lines[0]), &line); err != nil || len(lines) != 1 {
				t.Fatalf("%v: %d lines:\n%s", err, len(lines), &log)
			}
			if line.UID == nil || *line.UID != uid || line.User != name || line.PID <= 1 || line.PID == os.Getpid() || !strings.Contains(lines[0], test.says) {
				t.Errorf("want user %q, its process, and %s:\n%s", name, test.says, &log)
			}
			if want := map[bool]string{false: "info", true: "warn"}[test.refused]; line.Level != want {
				t.Errorf("level %s, want %s", line.Level, want)
			}
			// The process may have ended before its name was looked for; then there is none.
			if line.Command != "" && line.Command != peerName {
				t.Errorf("command %q, want %q", line.Command, peerName)
			}
		})
	}
}

// TestCommandOf: a living process has a name, others have none.
func TestCommandOf(t *testing.T) {
	if name := commandOf(int32(os.Getpid())); name == "" || strings.HasSuffix(name, "\n") {
		t.Errorf("our own: %q", name)
	}
	for _, pid := range []int32{0, -1, 1 << 30} {
		if name := commandOf(pid); name != "" {
			t.Errorf("%d: %q", pid, name)
		}
	}
}

// TestItems: a list that is too long for a line says how long it is.
func TestItems(t *testing.T) {
	var log bytes.Buffer
	list := make([]string, 1000)
	l := zerolog.New(&log)
	Items(l.Info(), "changes", list).Send()
	if log.Len() > 300 || !strings.Contains(log.String(), `"changes_in_all":1000`) {
		t.Errorf("%s", &log)
	}
}
