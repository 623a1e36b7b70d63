package keeper

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/windows"
)

// owned leaves it to the system: the directory for temporary files is the user's own.
func owned(dir string) error {
	if info, err := os.Lstat(dir); err != nil || !info.IsDir() {
		return errors.Join(fmt.Errorf("%s is no directory", dir), err)
	}
	return nil
}

// private is what owned directories are.
func private(string) error { return nil }

// claim opens a file for this process and its heirs alone; it goes with the last of them.
func claim(path string) (*os.File, error) {
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return nil, err
	}
	h, err := windows.CreateFile(name, windows.GENERIC_READ|windows.GENERIC_WRITE, 0, nil, windows.OPEN_ALWAYS,
		windows.FILE_ATTRIBUTE_NORMAL|windows.FILE_FLAG_DELETE_ON_CLOSE, 0)
	switch {
	case errors.Is(err, windows.ERROR_SHARING_VIOLATION):
		return nil, ErrClaimed
	case err != nil:
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return os.NewFile(uintptr(h), path), nil
}

func removeLock(f *os.File, _ string) error { return f.Close() }
