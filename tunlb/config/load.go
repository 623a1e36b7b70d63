package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/tunlb/tunlb/policy"
)

// Bounds of a file, which are some forty thousand servers: the parser takes some 400 bytes of memory for each token. Files that
// people and programs write have one in three bytes or more, so most of what is none is refused for little.
const (
	maxSize    = 4 << 20 // bytes
	maxTokens  = 800_000
	someTokens = 40_000 // that any file may have; a longer one, as many as half its bytes
)

// Load reads and parses the file at path. The error is of type Errors if the file could be read.
func Load(path string) (*Config, error) {
	f, err := os.Open(path)
	if err == nil {
		defer f.Close()
		var cfg *Config
		if cfg, err = Read(path, f); err == nil || errors.As(err, new(Errors)) {
			return cfg, err
		}
	}
	return nil, fmt.Errorf("read the configuration: %w; %s", err, nextCommand(path, err))
}

// Read parses what comes from r: up to one byte more than Parse accepts, so that a device without an end is refused, too. The error is of
// type Errors if r could be read.
func Read(name string, r io.Reader) (*Config, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxSize+1))
	if err != nil {
		return nil, err
	}
	return Parse(name, data)
}

func nextCommand(path string, err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "name the file: tunlb check FILE"
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("see who may read it: ls -l %s", path)
	}
	return fmt.Sprintf("see what it is: ls -ld %s", path)
}

// Parse decodes and validates data; name stands for it in the errors. The error is of type Errors.
func Parse(name string, data []byte) (*Config, error) {
	d := &decoder{reporter: reporter{file: name}}
	if root := d.parse(data); root != nil {
		d.document(root)
		d.check()
	}
	cfg := d.config()
	if len(d.errs) == 0 {
		d.normalize(cfg)
	}
	if len(d.errs) > 0 {
		return nil, d.errs.sorted()
	}
	return cfg, nil
}

// normalize fills in what the policy does. It has nothing to refuse: check has found that, with its place.
func (d *decoder) normalize(cfg *Config) {
	specs, err := policy.Normalize(cfg.Services)
	if err != nil {
		d.fail(pos{1, 1}, "services that contradict each other", err.Error(), "write them one by one to find out which; this is a fault of tunlb's, please report it")
		return
	}
	cfg.Services = specs
}
