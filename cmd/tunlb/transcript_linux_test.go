package main

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// TestTranscript replays what was recorded from ipvsadm and the kernel, one process for each command, against
// the daemon that the first of them starts. Counters are left out, since there is no traffic; package ipvs
// tests how they are printed, and names.
func TestTranscript(t *testing.T) {
	l := newLVS(t)
	text, err := os.ReadFile("../../tunlb/ipvs/testdata/transcript.txt")
	if err != nil {
		t.Fatal(err)
	}
	saved, commands := "", 0
	for _, block := range strings.Split(string(text), "\n$ ")[1:] {
		line, want, _ := strings.Cut(block, "\n")
		want, _, _ = strings.Cut(want, "\n#") // headings
		args := strings.Fields(line)
		in, counters := "", 2
		switch {
		case line == "ipvsadm -L", line == "ipvsadm -S", strings.HasPrefix(line, "ipvsadm -Lc"), strings.HasPrefix(line, "ipvsadm -Lnc"):
			continue // names, and connections
		case args[0] == progRestore:
			in = "# three lines\n-A -t 10.0.0.10:80 -s rr\n-a -t 10.0.0.10:80 -r 192.168.1.11:80 -m\nbogus\n"
			args = args[:1]
			want = strings.Replace(want, "rc 255", "[exit 255]", 1)
		case line == "ipvsadm -C":
			saved = l.lvs(t, "", progSave, "-n")
		case strings.Contains(line, "--stats"), strings.Contains(line, "--rate"):
			counters = 5
		case strings.Contains(line, "--persistent-conn"):
			counters = 3
		}
		commands++
		want, restore := strings.CutSuffix(strings.TrimSpace(want), "restore rc 0")
		if got := l.lvs(t, in, args[0], args[1:]...); uncounted(got, counters) != uncounted(want, counters) {
			t.Errorf("%s:\n%s\nwant\n%s", line, got, want)
		}
		if restore {
			if got := l.lvs(t, saved, progRestore); got != "" {
				t.Errorf("restore: %s", got)
			}
			if got := l.lvs(t, "", progSave, "-n"); got != saved {
				t.Errorf("saved, restored and saved again:\n%s\nwant\n%s", got, saved)
			}
		}
	}
	if commands < 100 {
		t.Errorf("%d commands only", commands)
	}
}

// lvs runs one of LVS's programs and returns what it prints, with its exit code behind if that is not 0. Notes of
// tunlb's own are left out.
func (l *lvs) lvs(t *testing.T, in, program string, args ...string) string {
	t.Helper()
	cmd := l.command(args...)
	cmd.Args[0] = program
	cmd.Stdin = strings.NewReader(in)
	var out, errOut syncBuffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	text := out.String()
	for line := range strings.Lines(errOut.String()) {
		if !strings.HasPrefix(line, "tunlb: note: ") {
			text += line
		}
	}
	if code := cmd.ProcessState.ExitCode(); code != 0 {
		text += "[exit " + strconv.Itoa(code) + "]\n"
	}
	return text
}

// uncounted drops the last n numbers of a listing's rows, and the thresholds that ipvsadm does not save.
func uncounted(listing string, n int) string {
	var lines []string
	for line := range strings.Lines(listing) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		switch words[0] {
		case "-a", "-e":
			if i := strings.Index(line, " -x "); i >= 0 {
				words = strings.Fields(line[:i])
			}
		case "->", "TCP", "UDP", "SCTP", "FWM":
			if words[0] != "->" && n != 5 || strings.HasPrefix(line, "  -> Remote") {
				break
			}
			for range min(n, len(words)) {
				if _, err := strconv.Atoi(words[len(words)-1]); err == nil {
					words = words[:len(words)-1]
				}
			}
		}
		lines = append(lines, strings.Join(words, " "))
	}
	return strings.Join(lines, "\n")
}
