{{- define "kernelproto.labels" -}}
app.kubernetes.io/name: kernelproto-server
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "kernelproto.databaseLabels" -}}
app.kubernetes.io/name: kernelproto-postgresql
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "kernelproto.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: ["ALL"]
{{- end }}
