package config

import _ "embed" // the example is a file, so that it can be read and copied as one

//go:embed example.yaml
var example string

// Example gives a configuration with every key of this version, commented. Parse accepts it.
func Example() string { return example }
