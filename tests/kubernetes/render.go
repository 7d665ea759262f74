// Render renders the templates of a Helm chart: go run render.go <input >output
//
// The input is JSON with the files by name, and the data of the templates: Values, Release and Chart.
// The output is JSON with the rendered files by name. There are only the functions of Helm that the
// chart uses; a template with another one is refused.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"strings"
	"text/template"
)

type chart struct {
	Files map[string]string
	Data  map[string]interface{}
}

func main() {
	if err := render(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func render() error {
	var given chart
	if err := json.NewDecoder(os.Stdin).Decode(&given); err != nil {
		return err
	}
	all := template.New("chart").Option("missingkey=error")
	all.Funcs(template.FuncMap{
		"include": func(name string, data interface{}) (string, error) {
			var out strings.Builder
			err := all.ExecuteTemplate(&out, name, data)
			return out.String(), err
		},
		"toYaml":  func(value interface{}) string { return strings.Join(yaml(value), "\n") },
		"nindent": nindent,
		"quote":   quote,
		"default": func(other, value interface{}) interface{} {
			if isEmpty(value) {
				return other
			}
			return value
		},
		"required": func(words string, value interface{}) (interface{}, error) {
			if isEmpty(value) {
				return nil, fmt.Errorf("%s", words)
			}
			return value, nil
		},
	})
	for name, text := range given.Files {
		if _, err := all.New(name).Parse(text); err != nil {
			return err
		}
	}
	rendered := map[string]string{}
	for name := range given.Files {
		if strings.HasSuffix(name, ".tpl") {
			continue
		}
		var out strings.Builder
		if err := all.ExecuteTemplate(&out, name, given.Data); err != nil {
			return err
		}
		rendered[name] = out.String()
	}
	return json.NewEncoder(os.Stdout).Encode(rendered)
}

func isEmpty(value interface{}) bool {
	return value == nil || value == "" || value == false || value == 0.0
}

func nindent(spaces int, text string) string {
	indent := "\n" + strings.Repeat(" ", spaces)
	return indent + strings.ReplaceAll(text, "\n", indent)
}

// A text of JSON is one of YAML as well.
func quote(value interface{}) string {
	text, isText := value.(string)
	if !isText {
		text = fmt.Sprint(value)
	}
	quoted, _ := json.Marshal(text)
	return string(quoted)
}

// The lines of a value in the block style of YAML, as Helm writes it.
func yaml(value interface{}) []string {
	var lines []string
	switch value := value.(type) {
	case map[string]interface{}:
		names := make([]string, 0, len(value))
		for name := range value {
			names = append(names, name)
		}
		sort.Strings(names)
		for _, name := range names {
			inner := yaml(value[name])
			if len(inner) == 1 && !isBlock(value[name]) {
				lines = append(lines, name+": "+inner[0])
				continue
			}
			lines = append(lines, name+":")
			for _, line := range inner {
				lines = append(lines, "  "+line)
			}
		}
		if len(value) == 0 {
			lines = []string{"{}"}
		}
	case []interface{}:
		for _, item := range value {
			for number, line := range yaml(item) {
				lines = append(lines, map[bool]string{true: "- ", false: "  "}[number == 0]+line)
			}
		}
		if len(value) == 0 {
			lines = []string{"[]"}
		}
	case string:
		lines = []string{quote(value)}
	default:
		text, _ := json.Marshal(value)
		lines = []string{string(text)}
	}
	return lines
}

func isBlock(value interface{}) bool {
	switch value := value.(type) {
	case map[string]interface{}:
		return len(value) > 0
	case []interface{}:
		return len(value) > 0
	}
	return false
}
