package main

import (
	"bytes"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// playDemo plays a demo as a user does: in time, without escapes where no terminal is, and with nothing left.
func playDemo(t *testing.T, name string) (text string) {
	t.Helper()
	needLab(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	before := processes(t)
	cmd := exec.Command(self, "demo", name)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	began := time.Now()
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s%s", err, &out, &errOut)
	}
	if took := time.Since(began); took > demoTime {
		t.Errorf("took %v, want less than %v", took, demoTime)
	}
	text = out.String()
	if strings.Contains(text, "\x1b[") {
		t.Error("escapes were written to what is no terminal")
	}
	if left := slices.DeleteFunc(processes(t), func(p string) bool { return slices.Contains(before, p) }); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
	return text
}

// TestDemoNAT: every request is answered, and the journey is whole.
func TestDemoNAT(t *testing.T) {
	text := playDemo(t, "nat")
	for _, want := range []string{
		"answered by rs1 rs2 rs3 rs1 rs2 rs3\n",
		"answered by rs1 rs2 rs3 rs1 rs1 rs2 rs1 rs2 rs3 rs1 rs1 rs2\n",
		"http://[2001:db8:113::22]/",
		"eth1 192.168.0.100",
		"weighted  203.0.113.22:8080/tcp",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the demo does not show %q", want)
		}
	}
	// Request: the destination changes between tunlb0 in and out, and the checksum with it. Answer: the source.
	for _, want := range []string{
		`lb tunlb0 in +198\.51\.100\.7:\d+ +-> +203\.0\.113\.22:80 +63\* +0x\w{4} +valid\nlb tunlb0 out +198\.51\.100\.7:\d+ +-> +192\.168\.0\.10\*:8080\* +63 +0x\w{4}\* +valid`,
		`lb tunlb0 in +192\.168\.0\.10:8080 +-> +198\.51\.100\.7:\d+ +63\* +0x\w{4} +valid\nlb tunlb0 out +203\.0\.113\.22\*:80\* +-> +198\.51\.100\.7:\d+ +63 +0x\w{4}\* +valid`,
	} {
		if !regexp.MustCompile(want).MatchString(text) {
			t.Errorf("the journey does not match %s:\n%s", want, text)
		}
	}
}

// TestDemoDR: only MACs change, the answer goes past lb, only lb answers for the VIP, and little passes it.
func TestDemoDR(t *testing.T) {
	text := playDemo(t, "dr")
	for _, want := range []string{
		"answered by rs1 rs2 rs3 rs1 rs2 rs3\n",
		"answered by rs1 rs2 rs3 rs1 rs1 rs2 rs1 rs2 rs3 rs1 rs1 rs2\n",
		"http://[2001:db8:113::22]/",
		"The answer does not pass lb tap0.\n",
		"weighted    203.0.113.22:8080/tcp",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the demo does not show %q", want)
		}
	}
	for _, want := range []string{
		// The request: only the stations change. The answer: from the server to the client.
		`lb tap0 in +client +-> +lb +(203\.0\.113\.7:\d+ +-> +203\.0\.113\.22:80 +64 +0x\w{4}) +valid\nlb tap0 out +lb\* +-> +rs1\* +203\.0\.113\.7:\d+ +-> +203\.0\.113\.22:80 +64 +0x\w{4} +valid`,
		`ANSWER.*\nrs1 eth0 +rs1 +-> +client +203\.0\.113\.22:80 +-> +203\.0\.113\.7:\d+ +64 .*\nclient eth0 +rs1 +-> +client`,
		// One-arm: nobody but lb answers. Inline: the servers' words in the VIP's name go no further.
		`client +who has 203\.0\.113\.22, tell 203\.0\.113\.7 +everybody *\nlb +203\.0\.113\.22 is at 02:\S+ +client\n`,
		`rs2 +who has 203\.0\.113\.7, tell 203\.0\.113\.22 +everybody +suppressed`,
		`nat +2\d\.\d MiB +2\d\.\d MiB +2\.\d+\ndr +[\d.]+ KiB +[\d.]+ KiB +0\.\d+`,
	} {
		if !regexp.MustCompile(want).MatchString(text) {
			t.Errorf("the demo does not match %s:\n%s", want, text)
		}
	}
}

// processes lists this binary's processes.
func processes(t *testing.T) (list []string) {
	t.Helper()
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if exe, err := os.Readlink("/proc/" + e.Name() + "/exe"); err == nil && exe == self && e.Name() != "self" && e.Name() != "thread-self" {
			list = append(list, e.Name())
		}
	}
	return list
}
