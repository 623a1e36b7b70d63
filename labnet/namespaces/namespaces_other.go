//go:build !linux

package namespaces

import (
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/tunlb/tunlb/labnet/netns"
	"github.com/tunlb/tunlb/labnet/scenario"
)

// InitArgs are of no use: no lab gets as far.
func InitArgs() []string { return []string{"lab", "init"} }

// Init returns.
func Init() {}

type warden struct{}

func (*warden) start(*netns.NS, *exec.Cmd) error { return netns.Check() }

func (*warden) Close() error { return nil }

func groupAttr() *syscall.SysProcAttr { return nil }

func sessionAttr() *syscall.SysProcAttr { return nil }

func interrupt(*exec.Cmd, <-chan struct{}, bool) {}

func exitCode(state *os.ProcessState) int { return state.ExitCode() }

func nap(d time.Duration) { time.Sleep(d) }

func openTerminal() (screen, tty *os.File, err error) { return nil, nil, netns.Check() }

func setSize(*os.File, scenario.Size) {}
