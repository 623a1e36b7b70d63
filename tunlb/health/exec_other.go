//go:build !unix

package health

import "os/exec"

func setGroup(*exec.Cmd) {}

// killGroup kills the program; there are no process groups.
func killGroup(cmd *exec.Cmd) error { return cmd.Process.Kill() }
