package control

import (
	"bytes"
	"context"
	"encoding"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/ipvs"
)

// document is docs/openapi.yaml.
type document map[string]any

func openDocument(t *testing.T) document {
	t.Helper()
	b, err := os.ReadFile("../../docs/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var d document
	if err := yaml.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// at follows keys and then references.
func (d document) at(node any, keys ...string) map[string]any {
	for _, k := range keys {
		m, _ := d.resolve(node).(map[string]any)
		node = m[k]
	}
	m, _ := d.resolve(node).(map[string]any)
	return m
}

func (d document) resolve(node any) any {
	for {
		m, ok := node.(map[string]any)
		ref, isRef := m["$ref"].(string)
		if !ok || !isRef {
			return node
		}
		node = map[string]any(d)
		for _, k := range strings.Split(strings.TrimPrefix(ref, "#/"), "/") {
			node = node.(map[string]any)[k]
		}
	}
}

// check says what a decoded JSON value has that the schema does not allow. With all, it wants every property.
func (d document) check(schema, value any, all bool) (faults []string) {
	s, ok := d.resolve(schema).(map[string]any)
	if !ok {
		return []string{": no schema"}
	}
	below := func(place string, more []string) {
		for _, f := range more {
			faults = append(faults, place+f)
		}
	}
	if types := s["type"]; types != nil && !slices.ContainsFunc(list(types), func(t any) bool { return isOf(value, t.(string)) }) {
		return []string{fmt.Sprintf(": %v is no %v", value, types)}
	}
	if enum := s["enum"]; enum != nil && !all && !slices.Contains(list(enum), value) {
		return []string{fmt.Sprintf(": %v is none of %v", value, enum)}
	}
	switch v := value.(type) {
	case []any:
		for i, item := range v {
			below(fmt.Sprintf("[%d]", i), d.check(s["items"], item, all))
		}
	case map[string]any:
		properties := d.at(s["properties"])
		for key, item := range v {
			switch extra := s["additionalProperties"].(type) {
			case bool, nil:
				if p, known := properties[key]; known {
					below("."+key, d.check(p, item, all))
				} else if extra == false {
					faults = append(faults, "."+key+": is not in the document")
				}
			default:
				below("."+key, d.check(extra, item, all))
			}
		}
		required, _ := s["required"].([]any)
		for _, key := range required {
			if _, there := v[key.(string)]; !there {
				faults = append(faults, fmt.Sprintf(".%v: is missing", key))
			}
		}
		for key := range properties {
			if _, there := v[key]; all && !there {
				faults = append(faults, "."+key+": is in the document only")
			}
		}
	}
	return faults
}

// list makes one value a list of one.
func list(v any) []any {
	if l, ok := v.([]any); ok {
		return l
	}
	return []any{v}
}

func isOf(v any, kind string) bool {
	switch v := v.(type) {
	case nil:
		return kind == "null"
	case bool:
		return kind == "boolean"
	case string:
		return kind == "string"
	case float64:
		return kind == "number" || kind == "integer" && v == float64(int64(v))
	case []any:
		return kind == "array"
	case map[string]any:
		return kind == "object"
	}
	return false
}

// TestDocumentedRoutes: what is served is in the document, and the other way round, parameters too.
func TestDocumentedRoutes(t *testing.T) {
	doc := openDocument(t)
	routes := (&api{}).routes()
	if got, want := slices.Sorted(maps.Keys(doc.at(doc["paths"]))), slices.Sorted(maps.Keys(routes)); !slices.Equal(got, want) {
		t.Errorf("documented paths %q, served %q", got, want)
	}
	ask := asker(t, &daemon{})
	for path, methods := range routes {
		documented := slices.Sorted(maps.Keys(doc.at(doc["paths"], path)))
		var served []string
		for m := range methods {
			served = append(served, strings.ToLower(m))
		}
		slices.Sort(served)
		if !slices.Equal(documented, served) {
			t.Errorf("%s: documented %q, served %q", path, documented, served)
		}
		for _, method := range served {
			operation := doc.at(doc["paths"], path, method)
			parameters, _ := operation["parameters"].([]any)
			for _, p := range parameters {
				p := doc.at(p)
				query := url.Values{p["name"].(string): {fmt.Sprint(p["example"])}}
				if _, body := ask(strings.ToUpper(method), path+"?"+query.Encode(), ""); strings.Contains(string(body), "parameter ") {
					t.Errorf("%s %s?%s: %s", method, path, query.Encode(), body)
				}
			}
			status, body := ask(strings.ToUpper(method), path+"?nonsense=1", "")
			if status != 400 {
				t.Errorf("%s %s: a parameter that there is not: %d %s", method, path, status, body)
			}
			_, names, _ := strings.Cut(string(body), "want ")
			names, _, _ = strings.Cut(names, `"`)
			if names != "" && len(strings.Split(names, ", ")) != len(parameters) {
				t.Errorf("%s %s: takes %s, documented are %d", method, path, names, len(parameters))
			}
		}
	}
}

// asker calls a server and returns status and body.
func asker(t *testing.T, d Daemon) func(method, path, body string) (int, []byte) {
	t.Helper()
	socket := serve(t, d)
	h := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	return func(method, path, body string) (int, []byte) {
		t.Helper()
		req, err := http.NewRequest(method, "http://tunlb"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := h.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, b
	}
}

// TestDocumentedAnswers: real answers, of success and of failure, are as documented.
func TestDocumentedAnswers(t *testing.T) {
	doc := openDocument(t)
	d := &daemon{conns: 2, events: []tunlb.Event{{Seq: 1, Time: time.Unix(1, 0), Kind: "up", Address: netip.MustParseAddrPort("[2001:db8::1]:80")}}}
	d.state.Specs = []policy.Spec{{Name: "tcp/203.0.113.22:80", Listen: policy.On(netip.MustParseAddrPort("203.0.113.22:80"), policy.TCP)}}
	d.entries = []ipvs.Entry{{Servers: []ipvs.ServerEntry{{Active: 1}}}}
	ask := asker(t, d)
	for _, test := range []struct {
		method, path, body string
		want               int
	}{
		{"GET", "/v1/status", "", 200},
		{"GET", "/v1/status?x=1", "", 400},
		{"GET", "/v1/conns", "", 200},
		{"GET", "/v1/conns?limit=x", "", 400},
		{"DELETE", "/v1/conns?server=rs1", "", 200},
		{"DELETE", "/v1/conns", "", 400},
		{"GET", "/v1/events", "", 200},
		{"GET", "/v1/events?since=x", "", 400},
		{"GET", "/v1/trace?filter=client%20:40000&why=1", "", 200},
		{"GET", "/v1/trace?filter=clinet%20x", "", 400},
		{"GET", "/v1/capture?side=both", "", 400},
		{"POST", "/v1/explain", `{"client":"198.51.100.7:40000","vip":"203.0.113.22:80","protocol":"tcp"}`, 200},
		{"POST", "/v1/explain", `{"client":"198.51.100.7","vip":"203.0.113.22:80","protocol":"tcp"}`, 400},
		{"POST", "/v1/explain", `{"client":"198.51.100.7:40000","vip":"203.0.113.23:80","protocol":"tcp"}`, 404},
		{"POST", "/v1/servers", `{"server":"rs1","do":"drain"}`, 200},
		{"POST", "/v1/servers", `{}`, 400},
		{"POST", "/v1/reload", "", 200},
		{"POST", "/v1/reload?dry_run=1", "", 200},
		{"POST", "/v1/upgrade", "", 200},
		{"POST", "/v1/upgrade?binary=/nonexistent", "", 409},
		{"POST", "/v1/upgrade?binary=", "", 400},
		{"GET", "/v1/ipvs", "", 200},
		{"POST", "/v1/ipvs", `{"verb":"flush"}`, 200},
		{"GET", "/v1/ipvs", "", 200},
		{"POST", "/v1/ipvs", `{"verb":"delete-service","service":{"proto":6,"addr":"203.0.113.22","port":80}}`, 409},
		{"POST", "/v1/ipvs", `{"verb":"list"}`, 400},
	} {
		status, body := ask(test.method, test.path, test.body)
		path, _, _ := strings.Cut(test.path, "?")
		operation := doc.at(doc["paths"], path, strings.ToLower(test.method))
		responses := doc.at(operation["responses"])
		response, ok := responses[fmt.Sprint(status)]
		if !ok {
			response = responses["default"]
		}
		content := doc.at(response, "content")
		schema := content["application/json"]
		lines := [][]byte{body}
		if m, stream := content[ndjson].(map[string]any); stream {
			schema, lines = m, bytes.Split(bytes.TrimSpace(body), []byte("\n"))
		}
		if status != test.want {
			t.Errorf("%s %s: status %d: %s", test.method, test.path, status, body)
		}
		for _, line := range lines {
			var value any
			if err := json.Unmarshal(line, &value); err != nil {
				t.Errorf("%s %s: %v: %s", test.method, test.path, err, line)
			}
			for _, fault := range doc.check(doc.at(schema)["schema"], value, false) {
				t.Errorf("%s %s: %s in %.300s", test.method, test.path, fault, line)
			}
		}
	}
	d.reload = ReloadResult{Errors: []string{"bad"}, Invalid: true}
	status, body := ask("POST", "/v1/reload", "")
	var value any
	if err := json.Unmarshal(body, &value); err != nil || status != 422 {
		t.Fatalf("%d %s", status, body)
	}
	for _, fault := range doc.check(doc.at(doc["components"], "schemas", "Reload"), value, false) {
		t.Error(fault)
	}
}

// TestDocumentedFields: every field of Go's types is in the document, and every property of the document is a
// field. Values with everything set show both.
func TestDocumentedFields(t *testing.T) {
	doc := openDocument(t)
	for name, of := range map[string]any{
		"Status": Status{}, "Conn": Conn{}, "Event": tunlb.Event{}, "Reload": ReloadResult{}, "Upgrade": Upgrade{}, "Error": Error{}, "ServerOrder": orderBody{},
		"Table": Table{}, "Command": ipvs.Command{}, "TraceLine": TraceLine{},
		"Question": tunlb.Question{}, "Explanation": tunlb.Explanation{},
	} {
		v := reflect.New(reflect.TypeOf(of)).Elem()
		fill(t, v)
		b, err := json.Marshal(v.Interface())
		if err != nil {
			t.Fatal(name, err)
		}
		var value any
		if err := json.Unmarshal(b, &value); err != nil {
			t.Fatal(name, err)
		}
		for _, fault := range doc.check(doc.at(doc["components"], "schemas", name), value, true) {
			t.Errorf("%s%s", name, fault)
		}
	}
}

// fill sets all of a value.
func fill(t *testing.T, v reflect.Value) {
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(time.Unix(1, 0)))
		return
	case policy.Mode:
		v.Set(reflect.ValueOf(policy.NAT))
		return
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		for _, text := range []string{"203.0.113.22", "203.0.113.22:80", "203.0.113.0/24", "203.0.113.22:80/tcp"} {
			if u.UnmarshalText([]byte(text)) == nil {
				return
			}
		}
		if v.Kind() != reflect.Array {
			t.Fatalf("%v: no text for it", v.Type())
		}
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64, reflect.Int32:
		v.SetInt(1)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(1)
	case reflect.String:
		v.SetString("x")
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(t, v.Index(0))
	case reflect.Array:
		for i := range v.Len() {
			fill(t, v.Index(i))
		}
	case reflect.Map:
		item := reflect.New(v.Type().Elem()).Elem()
		fill(t, item)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("x"), item)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(t, v.Field(i))
			}
		}
	default:
		t.Fatalf("%v: no value for it", v.Type())
	}
}
