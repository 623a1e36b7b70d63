package doctor

import (
	"errors"
	"os"
	"strings"
	"syscall"
)

// lookAtUserNamespaces makes a child in a user namespace, which ends at once: it is to become a program that there is
// not. That this is what fails says that all before it has worked. Settings alone do not tell: seccomp, SELinux,
// AppArmor and the outer container all have their say.
func lookAtUserNamespaces(inUserns bool) userNamespaces {
	u := userNamespaces{
		root: os.Geteuid() == 0 && !inUserns,
		most: systemSetting(mostPath), clone: systemSetting(clonePath), restricted: systemSetting(restrictedPath),
	}
	if u.made = trySpawn(0); u.made == nil {
		u.able = trySpawn(syscall.CLONE_NEWNET) // takes a privilege inside
	}
	return u
}

// trySpawn returns what fails before the program is looked for.
func trySpawn(unshare uintptr) error {
	const nowhere = "/proc/self/no-program"
	id := func(n int) []syscall.SysProcIDMap {
		return []syscall.SysProcIDMap{{ContainerID: n, HostID: n, Size: 1}}
	}
	pid, err := syscall.ForkExec(nowhere, []string{nowhere}, &syscall.ProcAttr{Sys: &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER, Unshareflags: unshare,
		UidMappings: id(os.Geteuid()), GidMappings: id(os.Getegid()),
	}})
	switch {
	case errors.Is(err, syscall.ENOENT):
		return nil
	case err == nil: // there is such a program after all
		_, _ = syscall.Wait4(pid, nil, 0, nil)
		return nil
	}
	return err
}

// systemSetting reads one below /proc/sys; "" if the kernel does not have it.
func systemSetting(path string) string {
	b, _ := os.ReadFile("/proc/sys/" + path)
	return strings.TrimSpace(string(b))
}
