package flow

import (
	"syscall"
	"unsafe"
)

// adviseHuge asks for huge pages under what will be in b. Nothing depends on getting them.
func adviseHuge(b []byte) {
	page := syscall.Getpagesize()
	start := int(-uintptr(unsafe.Pointer(&b[0])) & uintptr(page-1))
	if end := start + (len(b)-start)/page*page; start < end {
		// It fails where the kernel knows no transparent huge pages.
		_ = syscall.Madvise(b[start:end], syscall.MADV_HUGEPAGE)
	}
}
