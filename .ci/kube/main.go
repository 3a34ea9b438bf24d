// Kube reads Kubernetes manifests as the API server would: each document is decoded strictly into its type of k8s.io/api, so that an
// unknown or mistyped field is an error. What only a cluster can say (admission, quotas, whether names exist) it does not.
package main

import (
	"bytes"
	"fmt"
	"os"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
)

func main() {
	bad := false
	for _, file := range os.Args[1:] {
		kinds, err := check(file)
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", file, err)
			bad = true
			continue
		}
		fmt.Printf("%s: %v\n", file, kinds)
	}
	if bad || len(os.Args) < 2 {
		os.Exit(1)
	}
}

// check decodes every document of a file and looks at what one says of another.
func check(file string) (kinds []string, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	utilruntime.Must(corev1.AddToScheme(scheme))
	utilruntime.Must(appsv1.AddToScheme(scheme))
	utilruntime.Must(policyv1.AddToScheme(scheme))
	decoder := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme, scheme, json.SerializerOptions{Yaml: true, Strict: true})
	var (
		pods    labels.Set
		choices []map[string]string
	)
	for i, document := range bytes.Split(data, []byte("\n---\n")) {
		object, kind, err := decoder.Decode(document, nil, nil)
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", i+1, err)
		}
		kinds = append(kinds, kind.Kind)
		switch o := object.(type) {
		case *appsv1.Deployment:
			pods, choices = o.Spec.Template.Labels, append(choices, o.Spec.Selector.MatchLabels)
			if c := o.Spec.Template.Spec.Containers[0]; c.ReadinessProbe == nil || c.LivenessProbe == nil {
				return nil, fmt.Errorf("document %d: the container is not probed", i+1)
			}
		case *policyv1.PodDisruptionBudget:
			choices = append(choices, o.Spec.Selector.MatchLabels)
		case *corev1.Service:
			choices = append(choices, o.Spec.Selector)
		}
	}
	for _, c := range choices {
		if len(c) == 0 || !labels.SelectorFromSet(c).Matches(pods) {
			return nil, fmt.Errorf("the selector %v does not choose the pods %v", c, pods)
		}
	}
	return kinds, nil
}
