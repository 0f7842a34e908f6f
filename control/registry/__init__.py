"""What is known of models: documents, versions, manifests and artifacts; no upload is loaded outside the sandbox."""
