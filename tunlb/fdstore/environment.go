package fdstore

import (
	"slices"
	"strings"
)

// SupervisorVariable tells a process by which process it is supervised: the pid.
const SupervisorVariable = "TUNLB_SUPERVISOR"

// Unmanaged is an environment for children: without what a manager tells this process alone. A child that had it could speak in this process's name. env
// is left as it is.
func Unmanaged(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		switch name {
		case "NOTIFY_SOCKET", "FDSTORE", SupervisorVariable:
			return true
		}
		return strings.HasPrefix(name, "LISTEN_") || strings.HasPrefix(name, "WATCHDOG_")
	})
}
